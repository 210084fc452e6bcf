// clsact, for kernels without tcx: a direct action filter at (priority, handle), by netlink. There is no link here: who attached it
// keeps a record and takes it off by program id.
#include <arpa/inet.h>
#include <bpf/libbpf.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "attach.hpp"
#include "netns.hpp"
#include "print_capture.hpp"

namespace aegis {

namespace {

constexpr uint32_t kIngress = TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS);
constexpr uint32_t kEgress = TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS);

bpf_tc_hook hookOf(unsigned int index, int point) {
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(index), .attach_point = static_cast<bpf_tc_attach_point>(point));
  return hook;
}

int pointOf(const TcTarget& target) { return target.egress ? BPF_TC_EGRESS : BPF_TC_INGRESS; }

// The program at this place, 0 without one (also: no clsact there at all, or a filter that is not eBPF).
Result<uint32_t> standing(unsigned int index, const TcTarget& target) {
  const bpf_tc_hook hook = hookOf(index, pointOf(target));
  LIBBPF_OPTS(bpf_tc_opts, options, .handle = target.handle, .priority = target.priority);
  const int error = bpf_tc_query(&hook, &options);
  if (error == 0) return options.prog_id;
  if (error == -ENOENT || error == -EINVAL) return 0U;
  return failureOf(-error, "Cannot read the filters of " + target.interface);
}

// Whether any filter hangs below one of clsact's two sides. A dump that fails counts as yes: nothing is removed then.
bool holdsFilters(unsigned int index, uint32_t parent) {
  const Descriptor socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  struct {
    nlmsghdr header;
    tcmsg filter;
  } request{};
  request.header = {.nlmsg_len = sizeof request, .nlmsg_type = RTM_GETTFILTER, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP, .nlmsg_seq = 1, .nlmsg_pid = 0};
  request.filter.tcm_family = AF_UNSPEC;
  request.filter.tcm_ifindex = static_cast<int>(index);
  request.filter.tcm_parent = parent;
  if (!socket.valid() || send(socket.get(), &request, sizeof request, 0) != static_cast<ssize_t>(sizeof request)) return true;
  alignas(nlmsghdr) char answer[32768];
  for (;;) {
    const ssize_t size = recv(socket.get(), answer, sizeof answer, 0);
    if (size <= 0) return true;
    auto left = static_cast<unsigned int>(size);
    for (auto* message = reinterpret_cast<nlmsghdr*>(answer); NLMSG_OK(message, left); message = NLMSG_NEXT(message, left)) {
      if (message->nlmsg_type == NLMSG_DONE) return false;
      if (message->nlmsg_type == NLMSG_ERROR) return true;
      if (message->nlmsg_type == RTM_NEWTFILTER) return true;
    }
  }
}

Result<TcFilter> attachHere(int program, const TcTarget& target, uint32_t replace) {
  Result<unsigned int> index = interfaceIndex(target.interface);
  if (!index) return index.failure();
  const PrintCapture printed;
  bpf_tc_hook both = hookOf(*index, BPF_TC_INGRESS | BPF_TC_EGRESS);
  const int made = bpf_tc_hook_create(&both);
  if (made != 0 && made != -EEXIST)
    return failureOf(-made, "The kernel did not make a clsact qdisc on " + target.interface, "bpf.attach_refused").with("libbpf", printed.text());
  // A qdisc that was made for nothing goes again.
  const auto undo = [&] {
    if (made == 0) bpf_tc_hook_destroy(&both);
  };
  Result<uint32_t> owner = standing(*index, target);
  if (!owner) {
    undo();
    return owner.failure();
  }
  if (*owner != replace) {
    undo();
    const std::string who = *owner == 0 ? "no program" : "program " + std::to_string(*owner);
    Failure failure{.code = *owner == 0 ? "bpf.attach_refused" : "bpf.hook_busy",
                    .message = "At priority " + std::to_string(target.priority) + ", handle " + std::to_string(target.handle) + " of " + target.interface +
                               " stands " + who + (replace == 0 ? ": take another handle." : ", not program " + std::to_string(replace) + "."),
                    .error = EEXIST};
    if (*owner != 0) failure.with("programId", static_cast<double>(*owner));
    return failure;
  }
  const bpf_tc_hook hook = hookOf(*index, pointOf(target));
  LIBBPF_OPTS(bpf_tc_opts, options, .prog_fd = program, .flags = replace == 0 ? 0U : static_cast<uint32_t>(BPF_TC_F_REPLACE), .handle = target.handle,
              .priority = target.priority);
  if (const int error = bpf_tc_attach(&hook, &options); error != 0) {
    undo();
    return failureOf(-error, "The kernel did not attach the program to clsact of " + target.interface, "bpf.attach_refused").with("libbpf", printed.text());
  }
  return TcFilter{.programId = options.prog_id, .madeQdisc = made == 0};
}

Result<bool> detachHere(const TcTarget& target, uint32_t expected, bool removeQdisc) {
  Result<unsigned int> index = interfaceIndex(target.interface);
  if (!index) return index.failure();
  const PrintCapture printed;
  Result<uint32_t> owner = standing(*index, target);
  if (!owner) return owner.failure();
  if (*owner != expected && *owner != 0)
    return Failure{.code = "bpf.attach_refused",
                   .message = "Program " + std::to_string(*owner) + " stands where program " + std::to_string(expected) + " was: it is left alone.",
                   .error = EEXIST}
        .with("programId", static_cast<double>(*owner));
  if (*owner == expected) {
    const bpf_tc_hook hook = hookOf(*index, pointOf(target));
    LIBBPF_OPTS(bpf_tc_opts, options, .handle = target.handle, .priority = target.priority);
    const int error = bpf_tc_detach(&hook, &options);
    if (error != 0 && error != -ENOENT) return failureOf(-error, "The kernel did not take the filter off " + target.interface);
  }
  if (!removeQdisc || holdsFilters(*index, kIngress) || holdsFilters(*index, kEgress)) return false;
  bpf_tc_hook both = hookOf(*index, BPF_TC_INGRESS | BPF_TC_EGRESS);
  return bpf_tc_hook_destroy(&both) == 0;
}

}  // namespace

Result<TcFilter> attachTc(int program, const TcTarget& target, uint32_t replace) {
  return inNetns(target.netns, [&] { return attachHere(program, target, replace); });
}

Result<uint32_t> queryTc(const TcTarget& target) {
  return inNetns(target.netns, [&]() -> Result<uint32_t> {
    Result<unsigned int> index = interfaceIndex(target.interface);
    if (!index) return index.failure();
    const PrintCapture printed;
    return standing(*index, target);
  });
}

Result<bool> detachTc(const TcTarget& target, uint32_t expected, bool removeQdisc) {
  return inNetns(target.netns, [&] { return detachHere(target, expected, removeQdisc); });
}

}  // namespace aegis
