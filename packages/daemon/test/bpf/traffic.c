/* UDP at full speed, both ends. `receive PORT…` says `ok`, counts until its standard input ends, then prints one count a port.
 * `send ADDRESS PORT…` (`trickle`: with pauses) says `ok`, sends to one port after the other until its standard input ends, then prints how many it sent to each. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 8, BATCH = 32 };

static int opened(void) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) exit(1);
  return fd;
}

static struct sockaddr_in address(const char *text, int port) {
  struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
  if (text) inet_pton(AF_INET, text, &in.sin_addr);
  return in;
}

static void ready(void) {
  puts("ok");
  fflush(stdout);
}

static void tell(const unsigned long *counts, int ports) {
  for (int at = 0; at < ports; at++) printf("%s%lu", at ? " " : "", counts[at]);
  puts("");
}

int main(int argc, char **argv) {
  unsigned long counts[MOST] = {0};
  char data[64] = "aegis", sink[BATCH][64];
  struct mmsghdr messages[BATCH] = {0};
  struct iovec parts[BATCH];
  if (argc < 3 || argc > 3 + MOST) return 2;
  int receiving = strcmp(argv[1], "receive") == 0;
  const char *to = receiving ? NULL : argv[2];
  int pausing = strcmp(argv[1], "trickle") == 0;
  char **ports = argv + (receiving ? 2 : 3);
  int many = argc - (receiving ? 2 : 3);
  struct pollfd wait[MOST + 1] = {{.fd = 0, .events = POLLIN}};
  struct sockaddr_in where[MOST];
  for (int at = 0; at < many; at++) {
    where[at] = address(to, atoi(ports[at]));
    wait[at + 1] = (struct pollfd){.fd = opened(), .events = POLLIN};
    if (receiving && bind(wait[at + 1].fd, (struct sockaddr *)&where[at], sizeof where[at]) != 0) return 1;
  }
  for (int at = 0; at < BATCH; at++) {
    parts[at] = receiving ? (struct iovec){sink[at], sizeof sink[at]} : (struct iovec){data, sizeof data};
    messages[at].msg_hdr = (struct msghdr){.msg_iov = &parts[at], .msg_iovlen = 1};
  }
  ready();
  for (;;) {
    if (poll(wait, receiving ? many + 1 : 1, receiving ? -1 : 0) < 0) return 1;
    if (wait[0].revents) break;
    if (pausing) usleep(200);
    for (int at = 0; at < many; at++) {
      if (receiving && !wait[at + 1].revents) continue;
      for (int one = 0; one < BATCH; one++) {
        messages[one].msg_hdr.msg_name = receiving ? NULL : &where[at];
        messages[one].msg_hdr.msg_namelen = receiving ? 0 : sizeof where[at];
      }
      int got = receiving ? recvmmsg(wait[at + 1].fd, messages, BATCH, MSG_DONTWAIT, NULL) : sendmmsg(wait[at + 1].fd, messages, BATCH, 0);
      if (got > 0) counts[at] += got;
    }
  }
  tell(counts, many);
  return 0;
}
