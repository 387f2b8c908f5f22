"""`actrec bench acted-events` and `idle-events`."""

from benchmarks import acted_events


def test_acted_events_plan_has_the_action_once() -> None:
    for action, rest in (("throw", "idle"), ("sit down", "idle_seated")):
        settings, end_s = acted_events.plan_of(action, seed=1, fps=10.0)
        values = dict(setting.split("=", 1) for setting in settings)
        assert values["actions"] == f"[idle, idle, {action}, {rest}, {rest}, {rest}]"
        assert 8 < end_s < float(values["duration"]) - 4


def test_idle_events_counts_the_minutes_of_both_people() -> None:
    figures = acted_events.idle(["--minutes", "0.1", "--exact"])
    assert figures == {"source": "exact joints", "minutes of people": 0.1, "events": 0, "found": []}
