/* What the attach tests do in a namespace or cgroup, one act a run, told in one line: `ok …` or `error ERRNO`.
 *   tcp-serve 4|6 PORT           accepts for ever; writes the port of its own side to each connection
 *   tcp-connect 4|6 ADDRESS PORT  → ok peer PORT read TEXT
 *   udp-serve 4|6 PORT           answers every datagram
 *   udp-ask 4|6 ADDRESS PORT      → ok from PORT (sendto, recvfrom on an unconnected socket)
 *   bind 4|6 PORT                 → ok PORT (as getsockname says)
 *   socket stream|dgram, set-tos N, get-ttl, open PATH, read-file PATH, write-file PATH TEXT
 * The servers say `ok PORT` once they can be asked. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static void fail(void) {
  printf("error %s\n", strerrorname_np(errno));
  exit(0);
}

struct address {
  struct sockaddr_storage any;
  socklen_t length;
};

static struct address address_of(const char *family, const char *text, const char *port) {
  struct address made = {0};
  if (family[0] == '4') {
    struct sockaddr_in *in = (void *)&made.any;
    in->sin_family = AF_INET;
    in->sin_port = htons((unsigned short)atoi(port));
    if (text) inet_pton(AF_INET, text, &in->sin_addr);
    made.length = sizeof(*in);
  } else {
    struct sockaddr_in6 *in = (void *)&made.any;
    in->sin6_family = AF_INET6;
    in->sin6_port = htons((unsigned short)atoi(port));
    in->sin6_addr = in6addr_any;
    if (text) inet_pton(AF_INET6, text, &in->sin6_addr);
    made.length = sizeof(*in);
  }
  return made;
}

static int port_in(const struct address *address) {
  return ntohs(address->any.ss_family == AF_INET ? ((const struct sockaddr_in *)&address->any)->sin_port
                                                 : ((const struct sockaddr_in6 *)&address->any)->sin6_port);
}

static int own_port(int fd) {
  struct address own = {.length = sizeof(own.any)};
  if (getsockname(fd, (void *)&own.any, &own.length)) fail();
  return port_in(&own);
}

static int make(const char *family, int type) {
  int fd = socket(family[0] == '4' ? AF_INET : AF_INET6, type, 0);
  if (fd < 0) fail();
  int on = 1;
  struct timeval patience = {.tv_sec = 1};
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
  return fd;
}

static int bound(const char *family, int type, const char *port) {
  struct address where = address_of(family, NULL, port);
  int fd = make(family, type);
  if (bind(fd, (void *)&where.any, where.length)) fail();
  return fd;
}

static void patient(int fd) {
  struct timeval patience = {.tv_sec = 1};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
}

int main(int count, char **words) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  const char *act = count > 1 ? words[1] : "";
  if (!strcmp(act, "tcp-serve")) {
    int fd = bound(words[2], SOCK_STREAM, words[3]);
    if (listen(fd, 8)) fail();
    printf("ok %d\n", own_port(fd));
    for (;;) {
      int one = accept(fd, NULL, NULL);
      if (one < 0) fail();
      dprintf(one, "%d", own_port(one));
      close(one);
    }
  }
  if (!strcmp(act, "tcp-connect")) {
    struct address to = address_of(words[2], words[3], words[4]);
    struct address peer = {.length = sizeof(peer.any)};
    char text[64] = "";
    int fd = make(words[2], SOCK_STREAM);
    patient(fd);
    if (connect(fd, (void *)&to.any, to.length)) fail();
    if (getpeername(fd, (void *)&peer.any, &peer.length)) fail();
    if (read(fd, text, sizeof(text) - 1) < 0) fail();
    printf("ok peer %d read %s\n", port_in(&peer), text);
    return 0;
  }
  if (!strcmp(act, "udp-serve")) {
    int fd = bound(words[2], SOCK_DGRAM, words[3]);
    printf("ok %d\n", own_port(fd));
    for (;;) {
      char text[64];
      struct address from = {.length = sizeof(from.any)};
      long got = recvfrom(fd, text, sizeof(text), 0, (void *)&from.any, &from.length);
      if (got < 0) fail();
      sendto(fd, text, (size_t)got, 0, (void *)&from.any, from.length);
    }
  }
  if (!strcmp(act, "udp-ask")) {
    struct address to = address_of(words[2], words[3], words[4]);
    struct address from = {.length = sizeof(from.any)};
    char text[64];
    int fd = make(words[2], SOCK_DGRAM);
    patient(fd);
    if (sendto(fd, "ask", 3, 0, (void *)&to.any, to.length) < 0) fail();
    if (recvfrom(fd, text, sizeof(text), 0, (void *)&from.any, &from.length) < 0) fail();
    printf("ok from %d\n", port_in(&from));
    return 0;
  }
  if (!strcmp(act, "bind")) {
    printf("ok %d\n", own_port(bound(words[2], SOCK_STREAM, words[3])));
    return 0;
  }
  if (!strcmp(act, "socket")) {
    close(make("4", strcmp(words[2], "dgram") ? SOCK_STREAM : SOCK_DGRAM));
    printf("ok\n");
    return 0;
  }
  if (!strcmp(act, "set-tos")) {
    int value = atoi(words[2]);
    if (setsockopt(make("4", SOCK_DGRAM), IPPROTO_IP, IP_TOS, &value, sizeof(value))) fail();
    printf("ok\n");
    return 0;
  }
  if (!strcmp(act, "get-ttl")) {
    int value = 0;
    socklen_t length = sizeof(value);
    if (getsockopt(make("4", SOCK_DGRAM), IPPROTO_IP, IP_TTL, &value, &length)) fail();
    printf("ok %d\n", value);
    return 0;
  }
  if (!strcmp(act, "open")) {
    if (open(words[2], O_RDONLY) < 0) fail();
    printf("ok\n");
    return 0;
  }
  if (!strcmp(act, "read-file")) {
    char text[64] = "";
    int fd = open(words[2], O_RDONLY);
    if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0) fail();
    printf("ok %s", text);
    return 0;
  }
  if (!strcmp(act, "write-file")) {
    int fd = open(words[2], O_WRONLY);
    if (fd < 0 || write(fd, words[3], strlen(words[3])) < 0) fail();
    printf("ok\n");
    return 0;
  }
  fprintf(stderr, "no act '%s'\n", act);
  return 2;
}
