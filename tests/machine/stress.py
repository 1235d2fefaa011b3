"""Works on the files in the current directory, as another of these does on another system.

stress.py NAME SECONDS    prints the number of rounds, or what was wrong
"""
import errno
import fcntl
import hashlib
import os
import random
import subprocess
import sys
import time

name, seconds = sys.argv[1], float(sys.argv[2])
end = time.monotonic() + seconds
rng = random.Random(name)
EXPECTED = {errno.ENOENT, errno.EEXIST, errno.ESTALE}


def tolerant(act):
    """Calls act, which fails if the other has been faster."""
    try:
        act()
    except OSError as error:
        if error.errno not in EXPECTED:
            raise


def contents(size):
    body = rng.randbytes(size)
    return hashlib.sha256(body).hexdigest().encode() + body


def is_whole(data):
    return hashlib.sha256(data[64:]).hexdigest().encode() == data[:64]


def replace(path):
    temporary = f"common/.{name}.{rng.random()}"
    with open(temporary, "wb") as file:
        file.write(contents(rng.choice((0, 10, 5000, 200_000))))
    os.rename(temporary, path)


def check(path):
    with open(path, "rb") as file:
        data = file.read()
    if not is_whole(data):
        sys.exit(f"{path} is not what one of us has written ({len(data)} bytes)")


def grow():
    """Appends to a file that both read and write with a lock."""
    with open("log", "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        lines = file.read().splitlines()
        if lines and int(lines[-1].split()[1]) != len(lines) - 1:
            sys.exit(f"line {len(lines) - 1} of the log is {lines[-1]}")
        file.write(f"{name} {len(lines)}\n".encode())


def commit(number):
    """Commits to a branch of our own in the shared repository."""
    tree = f"tree-{name}"
    if not os.path.exists(tree):
        git("-C", "repository", "worktree", "add", "-q", "-b", name, f"../{tree}")
    with open(f"{tree}/file-{rng.randrange(20)}", "w") as file:
        file.write(f"{number}\n" * rng.randrange(1, 2000))
    git("-C", tree, "add", "-A")
    git("-C", tree, "commit", "-q", "--allow-empty", "-m", str(number))


def git(*arguments):
    line = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "gc.auto=0", *arguments]
    subprocess.run(line, check=True)


rounds = 0
names = [f"common/{number}" for number in range(30)]
while time.monotonic() < end:
    rounds += 1
    one, other = rng.sample(names, 2)
    tolerant(lambda: replace(one))
    tolerant(lambda: os.link(one, other))
    tolerant(lambda: check(rng.choice(names)))
    tolerant(lambda: os.rename(one, other))
    tolerant(lambda: os.unlink(rng.choice(names)))
    directory = f"common/d{rng.randrange(5)}"
    tolerant(lambda: os.mkdir(directory))
    try:
        os.rmdir(directory)
    except OSError as error:
        if error.errno not in EXPECTED | {errno.ENOTEMPTY}:
            raise
    grow()
    if rounds % 10 == 0:
        commit(rounds)
print(rounds)
