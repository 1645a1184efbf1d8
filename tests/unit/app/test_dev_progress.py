"""Progress and the table of times."""

from blixard.app.dev_progress import Progress, times_table


def test_measured_times_are_kept_in_order():
    progress = Progress()
    with progress.measured("first"):
        pass
    progress.keep("second", 1.5)
    assert [what for what, _ in progress.times] == ["first", "second"]


def test_failed_work_is_not_measured():
    progress = Progress()
    try:
        with progress.measured("work"):
            raise ValueError
    except ValueError:
        assert progress.times == []


def test_table_shows_every_time():
    text = times_table([("cluster up", 4.714), ("delete", 0.4)])
    assert "4.71 s" in text
    assert "delete" in text


def test_lines_go_to_standard_error(capsys):
    Progress()("joined")
    out, err = capsys.readouterr()
    assert out == ""
    assert "joined" in err
