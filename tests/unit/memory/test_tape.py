"""The tape counts what autograd would hold: small cases by hand."""

from studio.memory.autograd_tape import Tape


def test_a_chain_by_hand() -> None:
    """x (100 bytes) -> a, kept -> b: forwards x and a and b; backwards b's gradient, then a's beside it."""
    tape = Tape()
    x = tape.tensor(100, 4, grad=True)
    a = tape.op(50, 4, x, saves=(x,))
    tape.op(30, 4, a, saves=(a,))
    tape.run()
    assert tape.now == 180 and tape.peak == 180
    tape.run_back()
    # All of them with b's gradient (30) and then a's (50); a and b's gradient go; then x's gradient (100) comes.
    assert tape.peak == max(180 + 30 + 50, 130 + 50 + 100)
    assert tape.now == 30 + 100


def test_what_nobody_keeps_goes_when_its_last_user_is_done() -> None:
    tape = Tape()
    x = tape.tensor(10, 4, grad=True)
    a = tape.op(1000, 4, x)
    tape.op(10, 4, a)
    tape.run()
    assert tape.peak == 1010 and tape.now == 10


def test_without_gradients_nothing_is_kept() -> None:
    tape = Tape(training=False)
    x = tape.tensor(10, 4, grad=True)
    a = tape.op(1000, 4, x, saves=(x,))
    tape.op(10, 4, a, saves=(a,))
    tape.run()
    assert tape.now == 10


def test_both_sides_of_a_sum_share_its_gradient_until_one_changes_it() -> None:
    tape = Tape()
    x = tape.tensor(100, 4, grad=True)
    branch = tape.op(100, 4, x)
    tape.op(100, 4, x, branch, passes=True)
    tape.run()
    assert tape.peak == 300 and tape.now == 100
    tape.run_back()
    # One gradient for the sum and both its inputs, and the branch's new one for x, added in place.
    assert tape.peak == 300 and tape.now == 200


def test_a_trained_weights_gradient_stays_and_its_copy_passes() -> None:
    tape = Tape()
    x = tape.tensor(10, 4)
    tape.op(10, 4, x, saves=(x,), param=(400, 200))
    tape.run()
    before = tape.now
    tape.run_back()
    assert tape.gradients == 400
    assert tape.peak == before + 10 + 400 + 200
