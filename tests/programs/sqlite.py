"""A database in WAL mode that is written all the time, by one process, and read by another.
Usage: sqlite.py FILE ENOUGH

The writer moves amounts between accounts, one transaction each, and appends its number to a table; the reader sees the same
sum in every snapshot. Each transaction is printed once it is committed."""
import os
import sqlite3
import sys
import time

file, enough = sys.argv[1], sys.argv[2]
ACCOUNTS, EACH = 100, 1000


def connect():
    return sqlite3.connect(file, timeout=60, isolation_level=None)


def read():
    db, seen = connect(), 0
    while not os.path.exists(enough):
        db.execute("BEGIN")
        total, = db.execute("SELECT sum(amount) FROM account").fetchone()
        time.sleep(0.01)
        again, = db.execute("SELECT sum(amount) FROM account").fetchone()
        last, = db.execute("SELECT coalesce(max(number), 0) FROM log").fetchone()
        db.execute("COMMIT")
        if not total == again == ACCOUNTS * EACH or last < seen:
            print(f"wrong: {total} and {again}, {last} after {seen}", flush=True)
            os._exit(1)
        seen = last
    os._exit(0)


db = connect()
if db.execute("PRAGMA journal_mode = wal").fetchone() != ("wal",):
    sys.exit("wrong: no WAL mode")
db.execute("PRAGMA wal_autocheckpoint = 50")
db.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, amount INTEGER)")
db.execute("CREATE TABLE log (number INTEGER PRIMARY KEY)")
db.executemany("INSERT INTO account VALUES (?, ?)", [(i, EACH) for i in range(ACCOUNTS)])
reader = os.fork()
if reader == 0:
    read()
number = 0
while not os.path.exists(enough):
    number += 1
    db.execute("BEGIN IMMEDIATE")
    db.execute("UPDATE account SET amount = amount - 1 WHERE id = ?", (number % ACCOUNTS,))
    db.execute("UPDATE account SET amount = amount + 1 WHERE id = ?", (number * 7 % ACCOUNTS,))
    db.execute("INSERT INTO log VALUES (?)", (number,))
    db.execute("COMMIT")
    print(number, flush=True)
    time.sleep(0.002)
_, status = os.waitpid(reader, 0)
print(f"wrote {number}, reader ended with {status}", flush=True)
