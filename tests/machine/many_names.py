"""Looks up all files of a directory again and again, so that the kernel may refresh them together,
and changes some of them itself. Prints `ready`, and `seen` when it sees what the host has changed
after that."""

import fcntl
import os
import sys
import threading
import time

os.chdir(sys.argv[1])
NAMES = [f"f{number}" for number in range(300)]


def look():
    found = {}
    for name in NAMES:
        try:
            found[name] = os.lstat(name)
        except FileNotFoundError:
            pass
    return found


def look_twice():
    other = threading.Thread(target=look)
    other.start()
    found = look()
    other.join()
    return found


for mode in (0o600, 0o640, 0o644, 0o600):
    found = look_twice()
    assert len(found) == len(NAMES), found.keys()
    with open("f10", "a") as file:
        file.write("x")
    assert os.stat("f10").st_size == found["f10"].st_size + 1
    os.unlink("f11")
    assert not os.path.exists("f11")
    open("f11", "x").close()
    os.rename("f12", "moved")
    assert not os.path.exists("f12")
    os.rename("moved", "f12")
    os.chmod("f13", mode)
    assert os.stat("f13").st_mode & 0o777 == mode
    assert os.listxattr("f14") == []
    os.setxattr("f14", "user.a", b"1")
    assert os.listxattr("f14") == ["user.a"]
    os.removexattr("f14", "user.a")
    assert os.listxattr("f14") == []
    # The entries expire.
    time.sleep(1.1)

kept = open("f20", "r+")
fcntl.lockf(kept, fcntl.LOCK_EX)
freed = open("f21", "r+")
fcntl.lockf(freed, fcntl.LOCK_EX)
# A process loses its locks when it closes any descriptor of the file.
open("f21").close()
look_twice()
os.lstat("f6"), os.lstat("f7")
print("ready", flush=True)
sys.stdin.readline()
# The kernel may still have the names, but writes only to the files that have them now.
for name in ("f6", "f7"):
    with open(name, "w") as file:
        file.write("machine")


def is_seen(found):
    return (
        found["f1"].st_size == 1000
        and "f2" not in found
        and found["f3"].st_ino == int(sys.argv[2])
        and found["f4"].st_mode & 0o777 == 0o604
        and os.listxattr("f5") == ["user.host"]
    )


while not is_seen(look_twice()):
    time.sleep(0.1)
print("seen", flush=True)
