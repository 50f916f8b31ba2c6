"""A fuzzer: random people do random things to bots on both stand-ins, and what must always hold is looked at all along.

words.py      what people write, how they are called, which files they send
script.py     what happens, as plain values that can be printed, replayed and cut in half
model.py      a hash model in this process; every prompt on its way to it is looked at
prompts.py    what must hold of every prompt
rooms.py      both stand-ins, the real plugins on them, and rooms with settings of all kinds
people.py     does in the rooms what the script says
watch.py      the event loop, the log, tasks, memory
run.py        one run, what must hold after each round, and the shortest script that still shows a failure
__main__.py   `python -m tests.fuzz`: for hours
"""
