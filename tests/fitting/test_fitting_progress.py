"""Progress without a terminal: a line with the time left after thirty seconds of silence."""

from sidar.fitting.logs import RunLog


def test_a_long_silence_is_ended_by_a_line_with_the_time_left(tmp_path, capsys):
    now = [0.0]
    with RunLog(tmp_path, 100, 400, "sft", clock=lambda: now[0]) as log:
        for step in range(101, 111):
            now[0] += 10.0
            log.advance(step)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"sft step {step} of 400, 0:{minutes} left" for step, minutes in
                     ((103, "49:30"), (106, "49:00"), (109, "48:30"))]  # fmt: skip


def test_other_lines_count_and_metrics_are_shown(tmp_path, capsys):
    now = [0.0]
    with RunLog(tmp_path, 0, 4, "align", clock=lambda: now[0]) as log:
        now[0] = 20.0
        log.write("valid", 1, {"nll": 1.5}, show=("nll",))
        now[0] = 40.0
        log.advance(2)
        now[0] = 51.0
        log.advance(3)
    assert capsys.readouterr().err.splitlines() == [
        "align step 1: nll 1.5",
        "align step 3 of 4, 0:00:17 left  nll 1.5",
    ]


def test_quiet_runs_print_nothing(tmp_path, capsys):
    now = [0.0]
    with RunLog(tmp_path, 0, 4, "sft", progress=False, clock=lambda: now[0]) as log:
        now[0] = 99.0
        log.advance(1)
    assert capsys.readouterr().err == ""
