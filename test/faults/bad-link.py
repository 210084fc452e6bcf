"""A bad link between two network namespaces: IP packets are lost, doubled, late and out of order, and TCP has to cope. A TUN device in
each namespace, this between them (netem, which does the same in the kernel, is not in every kernel). In the second namespace it also
listens for TCP and hands what comes to a port of this machine's loopback, so that a server out here can be reached from in there.

usage: bad-link.py NODE_NETNS PEER_NETNS TARGET_PORT FAULTS_JSON
Prints a line when it is ready; ends when its standard input does, and prints its counts before. Needs root."""

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
CLONE_NEWNET = 0x40000000
PREFIX = 30
# Set aside for tests between networks (RFC 2544); the same in every pair of namespaces.
NODE_ADDRESS, PEER_ADDRESS, PORT = "198.18.0.1", "198.18.0.2", 8080
libc = ctypes.CDLL(None, use_errno=True)


def enter(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    if libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"setns {path}")
    os.close(fd)


def tun(address: str) -> int:
    """In the namespace that this thread is in; the descriptor goes on working from any."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"badlink", IFF_TUN | IFF_NO_PI))
    subprocess.run(["ip", "address", "add", f"{address}/{PREFIX}", "dev", "badlink"], check=True)
    subprocess.run(["ip", "link", "set", "badlink", "up"], check=True)
    return fd


def copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for one in (source, sink):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is gone already


def forward(listening: socket.socket, port: int) -> None:
    while True:
        inside, _ = listening.accept()
        try:
            outside = socket.create_connection(("127.0.0.1", port))
        except OSError:
            inside.close()
            continue
        for pair in ((inside, outside), (outside, inside)):
            threading.Thread(target=copy, args=pair, daemon=True).start()


def main() -> None:
    node, peer, port, faults = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
    home = f"/proc/{os.getpid()}/ns/net"
    home_fd = os.open(home, os.O_RDONLY)
    enter(node)
    near = tun(NODE_ADDRESS)
    enter(peer)
    far = tun(PEER_ADDRESS)
    listening = socket.create_server((PEER_ADDRESS, PORT))
    if libc.setns(home_fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    threading.Thread(target=forward, args=(listening, port), daemon=True).start()
    print("ready", flush=True)

    chance = random.Random(faults.get("seed", 1))
    counts = {"passed": 0, "lost": 0, "duplicated": 0, "reordered": 0}
    waiting: list[tuple[float, int, int, bytes]] = []
    nth = 0
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, sink, packet = heapq.heappop(waiting)
            counts["passed"] += 1
            try:
                os.write(sink, packet)
            except OSError:
                pass  # the queue is full, or the interface gone: one loss more
        timeout = max(0.0, waiting[0][0] - now) if waiting else None
        readable, _, _ = select.select([near, far, sys.stdin], [], [], timeout)
        if sys.stdin in readable:
            break
        for source in readable:
            packet = os.read(source, 65536)
            if chance.random() < faults["loss"]:
                counts["lost"] += 1
                continue
            copies = 1
            if chance.random() < faults["duplicate"]:
                counts["duplicated"] += 1
                copies = 2
            for _ in range(copies):
                due = time.monotonic() + faults["delay_ms"] / 1000
                if chance.random() < faults["reorder"]:
                    counts["reordered"] += 1
                    due += 3 * faults["delay_ms"] / 1000
                nth += 1
                heapq.heappush(waiting, (due, nth, far if source == near else near, packet))
    print(json.dumps(counts), flush=True)


main()
