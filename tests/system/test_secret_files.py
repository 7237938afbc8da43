"""Files that hold a secret."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from osg_token_renewer import options
from osg_token_renewer.errors import Local
from osg_token_renewer.options import SecretFile
from osg_token_renewer.system.secret_files import read_secret
from tests.faults import apart


def test_a_secret_file_must_be_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for name, why in (("pipe", "not a regular file"), ("directory", "Is a directory")):
        with pytest.raises(
            Local, match=f"^the password file {tmp_path}/{name} cannot be read: {why}$"
        ) as raised:
            read_secret(SecretFile(str(tmp_path / name)), "password")
        assert raised.value.hint == "name a regular file"


def test_the_secret_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    for content, line in (
        (b"one\ntwo\n", "one"),
        (b"one\r\n", "one"),
        (b" in ner \n", " in ner "),
        (b"caf\xe9", "caf\udce9"),
    ):
        file.write_bytes(content)
        assert read_secret(options.secret_file(str(file)), "password") == line


@pytest.mark.parametrize("content", ["", "\n", "\nsecond"])
def test_a_secret_file_with_an_empty_first_line_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "secret"
    file.write_text(content)
    with pytest.raises(Local, match=f"^the password file {file} is empty$"):
        read_secret(SecretFile(str(file)), "password")


def test_a_secret_file_that_is_missing_or_may_not_be_read_comes_with_a_hint() -> None:
    # Another user cannot reach tmp_path.
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        (Path(name) / "secret").touch(0o600)
        (Path(name) / "secret").chmod(0)

        def body() -> None:
            for file, why, hint in (
                (
                    f"{name}/none",
                    "No such file or directory",
                    "create it, readable by the user of the service alone",
                ),
                (
                    f"{name}/secret",
                    "Permission denied",
                    f"let the user of the service read it: chown osg-token-svc {name}/secret",
                ),
            ):
                with pytest.raises(
                    Local, match=f"^the password file {file} cannot be read: {why}$"
                ) as caught:
                    read_secret(SecretFile(file), "password")
                assert caught.value.hint == hint

        apart(body, unprivileged=True)


def test_a_credential_is_a_file_that_systemd_hands_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "robot").write_text("hunter2\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_secret(options.secret_file("credential:robot"), "password") == "hunter2"


def test_a_credential_without_systemd_comes_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(Local, match="CREDENTIALS_DIRECTORY is not set") as caught:
        read_secret(options.secret_file("credential:robot"), "password")
    assert "LoadCredential=robot:" in (caught.value.hint or "")
