"""What is sent, paused and tried by itself, step by step, after deaths that the test makes up."""

from __future__ import annotations

from chatbridge.worker.recovery import ALONE_TOKENS, INNOCENT_SECONDS, MAX_DEATHS, Actions, Job, Recovery


def recovery(*jobs: Job) -> Recovery:
    made = Recovery()
    for job in jobs:
        made.add(job)
    return made


def say(job: Job, count: int = 1) -> None:
    job.tokens += [7] * count


def test_all_is_sent_once_in_the_order_in_which_it_came() -> None:
    a, b, c = Job(), Job(), Job()
    jobs = recovery(a, b)
    assert (len(jobs), [*jobs], jobs.sent) == (2, [a, b], False)
    assert jobs.actions(0.0) == Actions(send=[a, b])
    jobs.add(c)
    assert jobs.actions(0.0) == Actions(send=[c])
    assert jobs.actions(0.0) == Actions()
    for job in (a, b, c):
        assert jobs.sent
        jobs.remove(job)
    assert (len(jobs), jobs.sent) == (0, False)
    jobs.remove(a)


def test_what_had_no_part_goes_first_and_suspects_one_by_one() -> None:
    a, b, c = Job(), Job(), Job(waiting=True)
    jobs = recovery(a, b, c)
    jobs.actions(0.0)
    say(b, 3)
    assert jobs.died([a, b], 100.0) == []
    assert [job.suspect for job in (a, b, c)] == [True, True, False]
    assert (jobs.suspects, jobs.sent) == (2, False)
    assert jobs.actions(101.0) == Actions(send=[c], later=INNOCENT_SECONDS - 1)
    new = Job()
    jobs.add(new)
    assert jobs.actions(102.0) == Actions(send=[new], later=INNOCENT_SECONDS - 2)
    late = 100.0 + INNOCENT_SECONDS
    assert jobs.actions(late) == Actions(pause=[c, new])
    jobs.add(newest := Job())
    assert jobs.actions(late) == Actions(), "they have been told already"
    assert jobs.actions(late - 1) == Actions(), "while some are given up nothing is begun"
    for job in (c, new):
        jobs.paused(job)
        assert [job.sent, job.pausing, job.waiting] == [False] * 3
    assert jobs.actions(late - 1) == Actions(send=[c, new, newest], later=1.0)
    for job in (c, new, newest):
        jobs.remove(job)
    assert jobs.actions(late - 1) == Actions(send=[b]), "of suspects the one that had come furthest"
    jobs.add(c)
    c.sent = False
    assert jobs.actions(late - 1) == Actions(), "until the trial is over"
    say(b)
    assert jobs.actions(late - 1) == Actions(pause=[b]), "others wait until the last suspect was tried"
    jobs.paused(b)
    assert jobs.actions(late - 1) == Actions(send=[a])
    say(a)
    assert jobs.actions(late - 1) == Actions(send=[b, c])
    assert (jobs.suspects, a.alone, a.suspect) == (0, 0, False)


def test_who_kills_alone_twice_without_a_token_in_between_has_failed() -> None:
    job = Job()
    assert not job.died(alone=True)
    assert (job.alone, job.cleared_at) == (1, 1)
    assert job.died(alone=True)
    job = Job()
    for _ in range(4):
        assert not job.died(alone=True)
        assert job.alone == 1
        say(job)
    assert job.died(alone=True) is False
    assert job.died(alone=True)


def test_a_job_that_was_at_two_deaths_with_others_is_alone_for_longer() -> None:
    job = Job()
    job.died(alone=False)
    assert (job.together, job.cleared_at) == (1, 1)
    say(job, 5)
    job.died(alone=False)
    assert (job.together, job.cleared_at) == (2, 5 + ALONE_TOKENS)
    say(job, ALONE_TOKENS)
    job.died(alone=False)
    assert job.cleared_at == 5 + 2 * ALONE_TOKENS


def test_a_job_may_have_part_in_just_so_many_deaths() -> None:
    job = Job()
    failed = []
    for _ in range(MAX_DEATHS):
        say(job)
        failed.append(job.died(alone=False))
    assert failed == [False] * (MAX_DEATHS - 1) + [True]


def test_who_is_on_trial_is_to_blame_and_nobody_else() -> None:
    a, b = Job(), Job()
    jobs = recovery(a, b)
    jobs.actions(0.0)
    jobs.died([a, b], 0.0)
    assert jobs.actions(0.0) == Actions(send=[a])
    assert jobs.died([b], 1.0) == []
    assert (a.alone, b.alone, a.together, b.together) == (1, 0, 1, 1)
    assert jobs.actions(1.0) == Actions(send=[b]), "who has not killed alone is more likely harmless"
    jobs.remove(b)
    assert jobs.actions(1.0) == Actions(send=[a]), "a trial ends with its job"
    assert jobs.died([], 2.0) == [a]


def test_what_a_worker_was_tokenising_is_suspect_and_what_waits_or_has_begun_is_not() -> None:
    tokenised, waiting, begun, unsent = Job(), Job(), Job(), Job()
    jobs = recovery(tokenised, waiting, begun)
    jobs.actions(0.0)
    jobs.add(unsent)
    waiting.waiting = True
    say(begun)
    jobs.died([], 0.0)
    assert [job.suspect for job in (tokenised, waiting, begun, unsent)] == [True, False, False, False]


def test_where_nothing_explains_a_death_all_that_was_there_is_suspect() -> None:
    waiting, begun, unsent = Job(), Job(), Job()
    jobs = recovery(waiting, begun)
    jobs.actions(0.0)
    jobs.add(unsent)
    waiting.waiting = True
    say(begun)
    jobs.died([], 0.0)
    assert [job.suspect for job in (waiting, begun, unsent)] == [True, True, False]
    assert [job.alone for job in (waiting, begun)] == [0, 0]
