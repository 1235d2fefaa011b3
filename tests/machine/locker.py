"""Locks files. KIND is flock, posix or ofd (open file description).

try FILE...                each kind of lock: prints KIND:yes or KIND:no
hold KIND FILE             locks, prints "held", and waits for the end of standard input
wait KIND FILE             waits for the lock, prints "locked"
wait-alarm KIND FILE       the same, for a second at most: prints "interrupted" then
add JOURNAL FILE N         adds N rows to a database, with connections of its own
count FILE                 prints the number of rows, and what integrity_check says
"""
import fcntl
import os
import signal
import sqlite3
import struct
import sys

OFD_SETLK, OFD_SETLKW = 37, 38


def lock(kind, file, blocking):
    if kind == "flock":
        fcntl.flock(file, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
    elif kind == "posix":
        fcntl.lockf(file, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB), 10)
    else:
        request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 10, 0)
        fcntl.fcntl(file, OFD_SETLKW if blocking else OFD_SETLK, request)


def can_lock(kind, path):
    with open(path, "r+") as file:
        try:
            lock(kind, file, False)
            return True
        except BlockingIOError:
            return False


class Alarm(Exception):
    pass


def ring(*_):
    raise Alarm


def connect(path, journal):
    # Waits for other connections. A connection in WAL mode excludes those of other systems.
    connection = sqlite3.connect(path, timeout=600, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = " + journal)
    except sqlite3.OperationalError as error:
        sys.exit(f"{error} ({error.sqlite_errorname})")
    return connection


command, *words = sys.argv[1:]
if command == "try":
    print(" ".join(f"{kind}:{'yes' if can_lock(kind, words[0]) else 'no'}"
                   for kind in ("flock", "posix", "ofd")))
elif command == "hold":
    with open(words[1], "r+") as file:
        lock(words[0], file, False)
        print("held", flush=True)
        sys.stdin.read()
elif command == "wait":
    with open(words[1], "r+") as file:
        print("waiting", flush=True)
        lock(words[0], file, True)
        print("locked", flush=True)
elif command == "wait-alarm":
    signal.signal(signal.SIGALRM, ring)
    signal.alarm(1)
    with open(words[1], "r+") as file:
        try:
            lock(words[0], file, True)
            print("locked")
        except Alarm:
            print("interrupted")
elif command == "add":
    journal, path, rows = words
    name = os.uname().nodename
    for number in range(int(rows)):
        connection = connect(path, journal)
        connection.execute("CREATE TABLE IF NOT EXISTS rows (writer TEXT, number INTEGER)")
        # Reads and writes in one transaction: lost updates show as a wrong sum.
        connection.execute("CREATE TABLE IF NOT EXISTS sums (id INTEGER PRIMARY KEY, sum INTEGER)")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO rows VALUES (?, ?)", (name, number))
        connection.execute("INSERT INTO sums VALUES (1, 1) "
                           "ON CONFLICT (id) DO UPDATE SET sum = sum + 1")
        connection.execute("COMMIT")
        connection.close()
elif command == "count":
    connection = connect(words[0], "DELETE")
    rows, = connection.execute("SELECT count(*) FROM rows").fetchone()
    total, = connection.execute("SELECT sum FROM sums").fetchone()
    check, = connection.execute("PRAGMA integrity_check").fetchone()
    print(rows, total, check)
