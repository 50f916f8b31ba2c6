"""What becomes of a message that is edited in its chat, after it was answered."""

from __future__ import annotations

from dataclasses import replace

from chatbridge import Author, Bot, Bridge, ReplyStream
from tests.bots.conftest import ALONE, Make, Say, drained, said


async def test_the_new_words_stand_beside_the_old_ones(bot: Bot, bridge: Bridge, message: Make) -> None:
    first = message("How far is the moon?")
    await drained(await bot.receive(first))
    spoken = await said(bot)
    revised = await bot.revised(replace(first, text="How far is the sun?"))
    assert revised is not None
    assert await said(bot) == spoken, "the conversation stays where it is"
    old = (await bot.dialogue(ALONE).path())[0]
    new = await bridge.store.node(revised)
    assert (new.text, new.role, new.name, new.parent) == ("How far is the sun?", "user", "Ann", old.parent)
    assert new.id != old.id


async def test_a_message_may_be_edited_again_and_again(bot: Bot, bridge: Bridge, message: Make) -> None:
    first = message("one")
    await drained(await bot.receive(first))
    ids = [await bot.revised(replace(first, text=text)) for text in ("two", "three", "two")]
    texts = [(await bridge.store.node(id)).text for id in ids if id is not None]
    assert texts == ["two", "three", "two"]
    assert len(set(ids)) == 3


async def test_a_regenerated_answer_is_to_the_new_words(bot: Bot, message: Make) -> None:
    first = message("one")
    await drained(await bot.receive(first))
    node = await bot.revised(replace(first, text="two"))
    assert node is not None
    await drained(bot.dialogue(ALONE).regenerate("en", node))
    assert (await said(bot))[0] == ("user", "two")


async def test_what_changes_nothing_is_not_kept(bot: Bot, say: Say, message: Make) -> None:
    first = message("one")
    await drained(await bot.receive(first))
    assert await bot.revised(first) is None
    assert await bot.revised(message("never asked")) is None
    answer = (await bot.dialogue(ALONE).path())[-1]
    await bot.message_index.note(bot.name, ALONE.id, "answer", answer.id)
    assert await bot.revised(replace(first, id="answer", text="my own words", author=Author("bob", "Bob"))) is None


async def test_a_reply_quotes_after_an_edit_no_more_than_before(bot: Bot, bridge: Bridge, message: Make) -> None:
    first, second = message("one"), replace(message("two"), quoted="one")
    await drained(await bot.receive(first))
    second = replace(second, reply_to=first.id)
    await drained(await bot.receive(second))
    assert await bot.revised(second) is None, "a link's preview has appeared, say"
    node = await bot.revised(replace(second, text="three"))
    assert node is not None
    assert (await bridge.store.node(node)).text == "three"


async def test_nobody_puts_other_words_into_somebody_elses_message(bot: Bot, message: Make) -> None:
    first = message("one")
    waiting = await bot.receive(first)
    assert isinstance(waiting, ReplyStream)
    by_bob = replace(first, text="two", author=Author("bob", "Bob"))
    assert not waiting.reword(by_bob)
    await drained(waiting)
    assert await bot.revised(by_bob) is None
    assert await bot.revised(replace(by_bob, author=replace(first.author, anonymous=True))) is None
    assert (await said(bot))[0] == ("user", "one")
