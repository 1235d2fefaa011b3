"""Prints everything of the host that this machine reaches, a line each, sorted.

The arguments are addresses to connect to, HOST:PORT or [HOST]:PORT, and names to look up.
"""

import os
import socket
import sys


def connects(target):
    host, port = target.rsplit(":", 1)
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(20)
        try:
            client.connect((host, int(port)))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            # A connection may be accepted for somebody who then refuses it.
            return client.recv(1) != b""
        except OSError:
            return False


def answers(path):
    """Returns whether an SSH agent answers at a socket (SSH_AGENTC_REQUEST_IDENTITIES)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(20)
        try:
            client.connect(path)
            client.sendall(b"\0\0\0\1\x0b")
            return client.recv(1) != b""
        except OSError:
            return False


def is_known(name):
    try:
        socket.getaddrinfo(name, None)
        return True
    except OSError:
        return False


found = set()
for word in sys.argv[1:]:
    if ":" in word:
        if connects(word):
            found.add(f"address {word}")
    elif is_known(word):
        found.add(f"name {word}")
with open("/proc/mounts") as mounts:
    for line in mounts:
        source, target, kind = line.split()[:3]
        if kind in ("virtiofs", "9p", "fuse", "nfs", "cifs"):
            found.add(f"mount {target}")
for directory in ("/var/host-services", "/run/container"):
    for parent, _, files in os.walk(directory):
        for name in files:
            if answers(os.path.join(parent, name)):
                found.add(f"agent {os.path.join(parent, name)}")
for device in os.listdir("/sys/class/block"):
    with open(f"/sys/class/block/{device}/size") as size:
        # Those of drivers that serve nothing yet are empty.
        if int(size.read()) > 0:
            found.add(f"disk {device}")
for device in os.listdir("/sys/class/net"):
    if os.path.isdir(f"/sys/class/net/{device}"):
        found.add(f"network {device}")
with open("/etc/resolv.conf") as resolver:
    for line in resolver:
        if line.startswith(("search", "domain")):
            found.add(line.strip())
for name in os.environ:
    found.add(f"variable {name}")
print("\n".join(sorted(found)))
