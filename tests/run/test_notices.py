"""What reading finds out about the files reaches whoever watches the run."""

from __future__ import annotations

from distsgd import train
from distsgd.run.observer import Observer


class Notes(Observer):
    """Keeps the messages for the user."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def test_how_a_csv_file_is_read_is_said(tmp_path):
    (tmp_path / "rows.csv").write_text("a;label\n" + "1,5;x\n2,5;y\n" * 20)
    notes = Notes()
    serial = {"run.workers": 0, "run.dir": str(tmp_path / "run"), "train.max_steps": 0, "tracking.enabled": False}
    train({"data.train": str(tmp_path / "rows.csv"), **serial}, observer=notes)
    assert "rows.csv: read with ';' between columns and a decimal comma" in notes.texts
