// A socket filter on all packets of an interface: a raw packet socket that is never read, with the smallest buffer there is. The
// kernel has no link for it, so it lives as long as the descriptor.
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <sys/socket.h>

#include <cerrno>

#include "attach.hpp"
#include "netns.hpp"

namespace aegis {

Result<Descriptor> attachSocket(int program, const SocketTarget& target) {
  return inNetns(target.netns, [&]() -> Result<Descriptor> {
    Result<unsigned int> index = interfaceIndex(target.interface);
    if (!index) return index.failure();
    // Protocol 0: no packet comes in before filter and interface are set.
    Descriptor socket(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket.valid()) return failureOf(errno, "The kernel did not make a packet socket", "bpf.attach_refused");
    const int smallest = 0;
    (void)setsockopt(socket.get(), SOL_SOCKET, SO_RCVBUF, &smallest, sizeof smallest);
    if (setsockopt(socket.get(), SOL_SOCKET, SO_ATTACH_BPF, &program, sizeof program) != 0)
      return failureOf(errno, "The kernel did not attach the program to a socket", "bpf.attach_refused");
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = static_cast<int>(*index);
    if (bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
      return failureOf(errno, "The kernel did not bind the socket to " + target.interface, "bpf.attach_refused");
    return socket;
  });
}

}  // namespace aegis
