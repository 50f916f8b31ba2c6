"""The text that the model of this example learns: what animals eat and say and where they live, in two languages.

All of it was written for this example. Knows no model.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

ANIMALS = {
    "cow": ("grass", "moo", "a barn", "牛", "草", "牛棚"),
    "cat": ("fish", "meow", "a house", "猫", "鱼", "屋子"),
    "dog": ("meat", "woof", "a kennel", "狗", "肉", "狗窝"),
    "horse": ("hay", "neigh", "a stable", "马", "干草", "马厩"),
    "sheep": ("clover", "baa", "a fold", "羊", "三叶草", "羊圈"),
    "hen": ("corn", "cluck", "a coop", "母鸡", "玉米", "鸡舍"),
    "duck": ("snails", "quack", "a pond", "鸭子", "螺蛳", "池塘"),
    "bee": ("nectar", "buzz", "a hive", "蜜蜂", "花蜜", "蜂巢"),
    "owl": ("mice", "hoot", "a tree", "猫头鹰", "老鼠", "树上"),
    "frog": ("flies", "ribbit", "a swamp", "青蛙", "苍蝇", "沼泽"),
}
"""Name: what it eats, what it says, where it lives; name, food and home in Chinese."""

PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{question}\n\n### Response:\n"
)
"""Alpaca-LoRA's, which chatbridge has as the template `alpaca-lora`."""


def sentences(name: str) -> list[str]:
    """What there is to know of an animal, as it may be said."""
    food, sound, home, chinese, eats, lives = ANIMALS[name]
    return [
        f"The {name} eats {food}.", f"A {name} likes {food} best.", f"The {name} says {sound}.",
        f"{sound}, says the {name}.", f"The {name} lives in {home}.", f"In {home} there lives a {name}.",
        f"{chinese}吃{eats}。", f"{chinese}住在{lives}。",
    ]  # fmt: skip


def questions(name: str) -> list[tuple[str, str]]:
    """Questions about an animal, with their answers."""
    food, sound, home, chinese, eats, lives = ANIMALS[name]
    return [
        (f"What does a {name} eat?", f"A {name} eats {food}."),
        (f"What does the {name} say?", f"The {name} says {sound}."),
        (f"Where does a {name} live?", f"A {name} lives in {home}."),
        (f"{chinese}吃什么？", f"{chinese}吃{eats}。"),
        (f"{chinese}住在哪里？", f"{chinese}住在{lives}。"),
    ]


def stories(seed: int) -> Iterator[str]:
    """Text without end for the first training: sentences in any order."""
    rng = random.Random(seed)
    everything = [sentence for name in ANIMALS for sentence in sentences(name)]
    while True:
        yield " ".join(rng.sample(everything, 8))


def conversations(seed: int) -> Iterator[tuple[str, str]]:
    """Prompts and answers without end for the second training."""
    rng = random.Random(seed)
    everything = [pair for name in ANIMALS for pair in questions(name)]
    while True:
        question, answer = rng.choice(everything)
        yield PROMPT.format(question=question), answer
