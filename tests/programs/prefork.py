"""A server with workers, as it forks them: what was loaded before is in memory once. When there is a file `ask0` in its
directory it says in `said0` whether its memory and theirs is whole; then `ask1`, and so on."""
import itertools
import os
import sys
import time

directory = sys.argv[-1]

SIZE, WORKERS = 200 << 20, 5

block = bytearray(os.urandom(1 << 20) * (SIZE >> 20))
# Not every page is alike.
for at in range(0, SIZE, 4096):
    block[at : at + 8] = at.to_bytes(8, "little")


def is_whole(own):
    return all(
        block[at : at + 8] == at.to_bytes(8, "little") for at in range(0, SIZE, 4096)
    ) and block[100:108] == own


pipes = []
for number in range(WORKERS):
    told, tell = os.pipe()
    answers, answer = os.pipe()
    if os.fork() == 0:
        # A page of its own, as soon as it writes.
        block[100:108] = number.to_bytes(8, "little")
        os.write(answer, b".")
        while os.read(told, 1):
            os.write(answer, b"y" if is_whole(number.to_bytes(8, "little")) else b"n")
        os._exit(0)
    os.close(told)
    os.read(answers, 1)
    pipes.append((tell, answers))
block[100:108] = b"the root"
open(directory + "/ready", "w").close()
for number in itertools.count():
    while not os.path.exists(f"{directory}/ask{number}"):
        time.sleep(0.01)
    word = "y" if is_whole(b"the root") else "n"
    for tell, answers in pipes:
        os.write(tell, b"?")
        word += os.read(answers, 1).decode()
    with open(f"{directory}/new", "w") as file:
        file.write(word)
    os.rename(f"{directory}/new", f"{directory}/said{number}")
