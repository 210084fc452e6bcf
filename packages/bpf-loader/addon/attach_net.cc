// xdp, tcx, netfilter, and the hooks of a network namespace.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/if_link.h>

#include <cerrno>

#include "attach.hpp"
#include "netns.hpp"
#include "print_capture.hpp"

namespace aegis {

namespace {

std::string programName(uint32_t id) {
  const Descriptor fd(bpf_prog_get_fd_by_id(id));
  bpf_prog_info info{};
  uint32_t size = sizeof info;
  if (!fd.valid() || bpf_obj_get_info_by_fd(fd.get(), &info, &size) != 0) return {};
  return info.name;
}

Failure busy(const std::string& hook, uint32_t owner, int error) {
  const std::string name = owner == 0 ? std::string() : programName(owner);
  const std::string who = owner == 0 ? "another program" : "program " + std::to_string(owner) + (name.empty() ? "" : " (" + name + ")");
  Failure failure{.code = "bpf.hook_busy", .message = hook + " holds one program and " + who + " is there: detach that one first.", .error = error};
  if (owner != 0) failure.with("programId", static_cast<double>(owner)).with("name", name);
  return failure;
}

uint32_t xdpOwner(unsigned int ifindex) {
  const PrintCapture printed;
  LIBBPF_OPTS(bpf_xdp_query_opts, found);
  if (bpf_xdp_query(static_cast<int>(ifindex), 0, &found) != 0) return 0;
  for (const uint32_t id : {found.prog_id, found.drv_prog_id, found.skb_prog_id, found.hw_prog_id}) {
    if (id != 0) return id;
  }
  return 0;
}

Result<LinkFd> linkXdp(int program, const XdpTarget& target) {
  Result<unsigned int> index = interfaceIndex(target.interface);
  if (!index) return index.failure();
  sys::LinkCreate attribute{};
  attribute.programFd = static_cast<uint32_t>(program);
  attribute.target = *index;
  attribute.attachType = sys::kXdp;
  attribute.flags = target.flags;
  Result<LinkFd> link = createLink(attribute, "The kernel did not attach the program to XDP of " + target.interface);
  if (link) return link;
  const int error = link.failure().error;
  if (error == EBUSY || error == EEXIST) return busy("The XDP hook of " + target.interface, xdpOwner(*index), error);
  if ((target.flags & XDP_FLAGS_HW_MODE) != 0)
    return Failure{.code = "bpf.unsupported",
                   .message = "The driver or card of " + target.interface + " does not offload XDP programs: take mode native or generic.",
                   .error = error};
  if (error == EOPNOTSUPP && (target.flags & XDP_FLAGS_DRV_MODE) != 0)
    return Failure{.code = "bpf.unsupported", .message = "The driver of " + target.interface + " has no native XDP: take mode generic or auto.", .error = error};
  return link;
}

Result<LinkFd> linkTcx(int program, const TcxTarget& target) {
  Result<unsigned int> index = interfaceIndex(target.interface);
  if (!index) return index.failure();
  sys::LinkCreate attribute{};
  attribute.programFd = static_cast<uint32_t>(program);
  attribute.target = *index;
  attribute.attachType = target.attachType;
  attribute.flags = target.flags;
  attribute.tcx.relative = target.relative;
  Result<LinkFd> link = createLink(attribute, "The kernel did not attach the program to tcx of " + target.interface);
  if (link) return link;
  const int error = link.failure().error;
  if (error == ENOENT && target.relative != 0)
    return Failure{.code = "bpf.no_such_target",
                   .message = "Program " + std::to_string(target.relative) + ", to which the order refers, is not attached to " + target.interface + ".",
                   .error = error};
  if (error == ERANGE)
    return Failure{.code = "bpf.hook_busy", .message = "tcx of " + target.interface + " is full (64 programs): detach one first.", .error = error};
  return link;
}

}  // namespace

Result<LinkFd> attachXdp(int program, const XdpTarget& target, const std::string& pinPath) {
  return pinnedLink(pinPath, [&] { return inNetns(target.netns, [&] { return linkXdp(program, target); }); });
}

Result<LinkFd> attachTcx(int program, const TcxTarget& target, const std::string& pinPath) {
  return pinnedLink(pinPath, [&] { return inNetns(target.netns, [&] { return linkTcx(program, target); }); });
}

Result<LinkFd> attachNetfilter(int program, const NetfilterTarget& target, const std::string& pinPath) {
  const auto make = [&]() -> Result<LinkFd> {
    sys::LinkCreate attribute{};
    attribute.programFd = static_cast<uint32_t>(program);
    attribute.attachType = sys::kNetfilter;
    attribute.netfilter.protocolFamily = target.family;
    attribute.netfilter.hook = target.hook;
    attribute.netfilter.priority = target.priority;
    Result<LinkFd> link = createLink(attribute, "The kernel did not attach the program to netfilter");
    if (!link && link.failure().error == EBUSY) {
      return Failure{.code = "bpf.hook_busy",
                     .message = "Another netfilter program stands at priority " + std::to_string(target.priority) + " of this hook: take another priority.",
                     .error = EBUSY};
    }
    return link;
  };
  return pinnedLink(pinPath, [&] { return inNetns(target.netns, make); });
}

Result<LinkFd> attachNetns(int program, const std::string& netns, uint32_t attachType, const std::string& pinPath) {
  return pinnedLink(pinPath, [&]() -> Result<LinkFd> {
    const std::string path = netns.empty() ? "/proc/self/ns/net" : netns;
    const Descriptor fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!fd.valid())
      return Failure{.code = "bpf.no_such_target", .message = "Cannot open network namespace " + path + ": " + errnoText(errno) + ".", .error = errno};
    sys::LinkCreate attribute{};
    attribute.programFd = static_cast<uint32_t>(program);
    attribute.target = static_cast<uint32_t>(fd.get());
    attribute.attachType = attachType;
    Result<LinkFd> link = createLink(attribute, "The kernel did not attach the program to network namespace " + path);
    if (!link && (link.failure().error == EBUSY || link.failure().error == EEXIST || link.failure().error == E2BIG)) {
      uint32_t ids[1] = {};
      uint32_t flags = 0;
      uint32_t count = 1;
      (void)bpf_prog_query(fd.get(), static_cast<bpf_attach_type>(attachType), 0, &flags, ids, &count);
      return busy("This hook of network namespace " + path, ids[0], link.failure().error);
    }
    return link;
  });
}

}  // namespace aegis
