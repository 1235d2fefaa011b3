"""Prints what happens to odd files in the current directory."""
import ctypes
import errno
import fcntl
import os
import socket
import subprocess

C = ctypes.CDLL(None, use_errno=True)


def report(name, act):
    try:
        print(f"{name}: {act()}")
    except OSError as error:
        print(f"{name}: {errno.errorcode[error.errno]}")


def anonymous():
    file = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(file, b"contents")
    path = f"/proc/self/fd/{file}".encode()
    if C.linkat(-100, path, -100, b"linked", 0x400) != 0:
        raise OSError(ctypes.get_errno(), "linkat")
    os.close(file)
    return open("linked").read()


def sparse():
    with open("big", "wb") as file:
        file.truncate(4 << 40)
        file.seek(3 << 40)
        file.write(b"data")
        file.flush()
        C.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        assert C.fallocate(file.fileno(), 3, 0, 1 << 20) == 0
    about = os.stat("big")
    with open("big", "rb") as file:
        data = os.lseek(file.fileno(), 0, os.SEEK_DATA)
    return about.st_size, about.st_blocks < 1000, data == 3 << 40


def copy():
    subprocess.run(["cp", "--reflink=auto", "--sparse=always", "big", "copy"], check=True)
    about = os.stat("copy")
    return about.st_size, about.st_blocks < 1000


def reflink():
    open("one", "w").write("x" * 4096)
    with open("one", "rb") as one, open("two", "wb") as two:
        fcntl.ioctl(two, 0x40049409, one.fileno())
    return open("two").read() == open("one").read()


def range_copy():
    with open("one", "rb") as one, open("three", "wb") as three:
        return os.copy_file_range(one.fileno(), three.fileno(), 4096)


def collapse():
    with open("one", "r+b") as file:
        if C.fallocate(file.fileno(), 8, 0, 4096) != 0:
            raise OSError(ctypes.get_errno(), "fallocate")


def birth():
    return subprocess.check_output(["stat", "--format", "%W", "one"], text=True).strip()


def mount_flags():
    flags = os.statvfs(".").f_flag
    return bool(flags & os.ST_NOSUID), bool(flags & os.ST_NODEV)


def lease():
    with open("one", "rb") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    return True


def exchange():
    open("left", "w").write("left")
    open("right", "w").write("right")
    if C.renameat2(-100, b"left", -100, b"right", 2) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")
    return open("left").read()


def names():
    wanted = [b"\xff\xfe", b"a\nb", b" ", b"0" * 255, "ü".encode(), b"-rf", b"*"]
    os.mkdir("names")
    for name in wanted:
        open(os.path.join(b"names", name), "w").close()
    return sorted(os.listdir(b"names")) == sorted(wanted)


def long_name():
    open("0" * 256, "w")


def pipe():
    os.mkfifo("pipe")
    process = subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE)
    with open("pipe", "w") as file:
        file.write("through")
    return process.communicate()[0].decode()


def sockets():
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    server.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect("socket")
    client.sendall(b"hello")
    return server.accept()[0].recv(5).decode()


def device():
    os.mknod("device", 0o020600, os.makedev(1, 3))
    return "made"


def deleted():
    with open("deleted", "w+") as file:
        os.unlink("deleted")
        file.write("still")
        file.seek(0)
        return file.read(), os.fstat(file.fileno()).st_nlink


def append():
    with open("appended", "ab") as one, open("appended", "ab") as two:
        for _ in range(10):
            one.write(b"1")
            one.flush()
            two.write(b"2")
            two.flush()
    return open("appended").read()


def times():
    os.utime("one", ns=(1, 1234567890123456789))
    return os.stat("one").st_mtime_ns


subprocess.run("rm -rf ./*", shell=True, check=True)
for act in (anonymous, sparse, copy, reflink, range_copy, collapse, birth, mount_flags, lease,
            exchange, names, long_name, pipe, sockets, deleted, append, times):
    report(act.__name__, act)
