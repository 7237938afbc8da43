"""From sections to the model: what each option means, and how a wrong one is reported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from osg_token_renewer.config import ini, schema
from osg_token_renewer.errors import ConfigError
from osg_token_renewer.model import Account, Config, RenewerSettings, Secret
from osg_token_renewer.options import SecretFile
from osg_token_renewer.sources.oidc_agent import source
from osg_token_renewer.sources.token_endpoint import TokenEndpoint
from tests.specs import file_token

AGENT = "[account robot]\npassword_file = {path}/robot.pw\n"
CLIENT = """\
[account probe]
token_request_url = https://issuer.example.org/token
client_id = probe
client_secret = hunter2
"""
OF_PROBE = "[token of-probe]\naccount = probe\ntoken_path = {path}/of-probe.token\n"
TOKEN = "[token x]\naccount = robot\ntoken_path = {path}/x.token\n"


def build(path: Path, text: str) -> tuple[Config, list[str]]:
    """The configuration from a private config.ini, and its problems from the line number on.

    `{path}` in the text stands for the directory.
    """
    for name, content in (("robot.pw", "password\n"), ("config.ini", text.replace("{path}", str(path)))):
        (path / name).write_text(content, encoding="utf-8", errors="surrogateescape")
        (path / name).chmod(0o600)
    files = [str(path / "config.ini")]
    sections, wrong = ini.read(files)
    assert wrong == []
    found, problems = schema.build(sections, files)
    return found, [
        str(problem).replace(f"{path}/config.ini:", "").replace(str(path), "{path}") for problem in problems
    ]


def said(path: Path, text: str) -> list[str]:
    return build(path, text)[1]


# Values


def test_an_oidc_agent_account_and_its_token(tmp_path: Path) -> None:
    found, problems = build(tmp_path, AGENT + TOKEN)
    assert problems == []
    assert found.accounts == {
        "robot": Account(
            "robot",
            "oidc-agent",
            source.OidcAgent().settings({"password_file": SecretFile(f"{tmp_path}/robot.pw")}),
        )
    }
    assert found.tokens == (file_token("x", "robot", f"{tmp_path}/x.token"),)
    assert (found.options.workers, found.options.state_dir, found.options.runtime_dir) == (None, None, None)


def test_a_client_credentials_account(tmp_path: Path) -> None:
    found, problems = build(tmp_path, CLIENT)
    assert problems == []
    assert found.accounts["probe"] == Account(
        "probe",
        "client-credentials",
        TokenEndpoint("https://issuer.example.org/token", "probe", Secret("hunter2")),
    )


def test_every_option_has_its_type(tmp_path: Path) -> None:
    (tmp_path / "secret").touch(mode=0o600)
    found, problems = build(
        tmp_path,
        "[account probe]\nsource = client-credentials\ntoken_request_url = https://i/t\nclient_id = a b\n"
        "client_secret_file = {path}/secret\nclient_auth = post\nca_file = /ca.pem\ntimeout = 5\n"
        "issuer = https://issuer.example.org\n"
        "[token x]\naccount = probe\ntoken_path = /x\naudience = one  two\n three\nscope = a b\n"
        "min_lifetime = 1800\nmode = 0640\ngroup = condor\nowner = 99\nclaims = enforce\non_expiry = remove\n"
        "[renewer]\nworkers = 3\nstate_dir = /s\nruntime_dir = /r\nrun_timeout = 90\nspread = 3600\n",
    )
    assert problems == []
    settings = TokenEndpoint("https://i/t", "a b", SecretFile(f"{tmp_path}/secret"), "post", "/ca.pem")
    assert found.accounts["probe"] == Account(
        "probe", "client-credentials", settings, 5.0, "https://issuer.example.org"
    )
    assert found.tokens == (
        file_token(
            "x",
            "probe",
            "/x",
            ("one", "two", "three"),
            ("a", "b"),
            1800,
            mode=0o640,
            group="condor",
            owner="99",
            enforce_claims=True,
            remove_expired=True,
        ),
    )
    given = RenewerSettings(workers=3, state_dir="/s", runtime_dir="/r", run_timeout=90, spread=3600)
    assert found.options == given


@pytest.mark.parametrize("url", ["https://issuer.example.org/", "http://localhost:8080"])
def test_every_account_may_name_its_issuer(tmp_path: Path, url: str) -> None:
    found, problems = build(tmp_path, AGENT + f"issuer = {url}\n" + CLIENT + f"issuer = {url}\n")
    assert problems == []
    assert [account.issuer for account in found.accounts.values()] == [url, url]


def test_an_empty_option_is_absent(tmp_path: Path) -> None:
    found, problems = build(tmp_path, AGENT + "timeout =\n" + TOKEN + "audience =\nmin_lifetime =\nmode =\n")
    assert problems == []
    assert found.accounts["robot"].timeout == 60
    assert found.tokens == (file_token("x", "robot", f"{tmp_path}/x.token"),)


def test_default_options_apply_to_every_section(tmp_path: Path) -> None:
    text = (
        "[DEFAULT]\nmin_lifetime = 600\npassword_file = {path}/robot.pw\n"
        "token_path = {path}/%(account)s.%(audience)s\naudience = ce\n"
    )
    found, problems = build(
        tmp_path,
        text + "[account robot]\n[token x]\naccount = robot\n[token y]\naccount = robot\naudience = se\n",
    )
    assert problems == []
    assert [(token.min_lifetime, token.path) for token in found.tokens] == [
        (600, f"{tmp_path}/robot.ce"),
        (600, f"{tmp_path}/robot.se"),
    ]


def test_blanks_in_a_title_do_not_matter(tmp_path: Path) -> None:
    found, problems = build(
        tmp_path, AGENT.replace("account robot", "  account   robot ") + TOKEN.replace("token x", "token\tx")
    )
    assert (list(found.accounts), [token.name for token in found.tokens], problems) == (["robot"], ["x"], [])


def test_options_may_be_written_in_capitals_and_sections_may_not(tmp_path: Path) -> None:
    found, problems = build(
        tmp_path, AGENT.replace("password_file", "Password_File") + TOKEN.replace("[token", "[Token")
    )
    assert list(found.accounts) == ["robot"]
    assert problems == ["3: [Token x] is not a section of this program; did you mean token?"]


def test_repr_of_the_configuration_masks_secrets(tmp_path: Path) -> None:
    found, _ = build(tmp_path, CLIENT)
    assert "hunter2" not in repr(found)


# Accounts


def test_password_file_counts_before_token_request_url_with_a_warning(tmp_path: Path) -> None:
    both = CLIENT.replace("[account probe]\n", AGENT) + "ca_file = /ca.pem\n"
    found, problems = build(tmp_path, both)
    assert found.accounts["robot"].source == "oidc-agent"
    assert problems == [
        "3: [account robot] token_request_url: "
        "both password_file and token_request_url are given: password_file counts (warning)"
    ]


def test_source_decides_if_it_is_given(tmp_path: Path) -> None:
    both = CLIENT.replace("[account probe]\n", AGENT + "source = client-credentials\n")
    found, problems = build(tmp_path, both)
    assert (found.accounts["robot"].source, problems) == ("client-credentials", [])


@pytest.mark.parametrize(
    "account",
    [
        "",
        "source = ssh-agent\n",
        "source = %(gone)s\n",
        "password_file = {path}/robot.pw\ntimeout = soon\n",
        "password_file = %(gone)s\n",
        "source = oidc-agent\n",
        "source = client-credentials\ntoken_request_url = http://issuer.example.org\nca_file = relative\n",
        "token_request_url = https://i/\nclient_id = probe\n",
    ],
)
def test_a_problem_of_an_account_is_an_error_only_if_a_token_uses_it(tmp_path: Path, account: str) -> None:
    """The original ignores other accounts."""
    problems = said(tmp_path, "[account robot]\n" + account + TOKEN)
    assert problems
    assert not any(problem.endswith(" (warning)") for problem in problems)
    # The token uses another account.
    other = "[account other]\npassword_file = {path}/robot.pw\n" + TOKEN.replace(
        "account = robot", "account = other"
    )
    found, warnings = build(tmp_path, "[account robot]\n" + account + other)
    assert warnings == [f"{problem} (warning)" for problem in problems]
    assert [token.account for token in found.tokens] == ["other"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("", "needs one of client_secret and client_secret_file"),
        (
            "client_secret = a\nclient_secret_file = /b\n",
            "needs one of client_secret and client_secret_file, not both",
        ),
    ],
)
def test_client_credentials_need_one_secret(tmp_path: Path, options: str, problem: str) -> None:
    problems = said(tmp_path, CLIENT.replace("client_secret = hunter2\n", options) + OF_PROBE)
    assert f"1: [account probe] {problem}" in problems


def test_a_secret_that_others_can_read_is_a_warning(tmp_path: Path) -> None:
    build(tmp_path, CLIENT + AGENT)
    os.chmod(tmp_path / "config.ini", 0o644)
    os.chmod(tmp_path / "robot.pw", 0o604)
    files = [str(tmp_path / "config.ini")]
    _, problems = schema.build(ini.read(files)[0], files)
    assert [(problem.place.line, problem.option, problem.warning, problem.what) for problem in problems] == [
        (4, "client_secret", True, f"others can read this secret: chmod o-rwx {tmp_path}/config.ini"),
        (6, "password_file", True, f"others can read it: chmod o-rwx {tmp_path}/robot.pw"),
    ]


@pytest.mark.parametrize("mode", [0o602, 0o606])
def test_a_secret_file_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "secret").touch()
    (tmp_path / "secret").chmod(mode)
    client = CLIENT.replace("client_secret = hunter2", "client_secret_file = {path}/secret")
    written, *read = said(tmp_path, client + OF_PROBE)
    assert written == "4: [account probe] client_secret_file: others can write it: chmod o-w {path}/secret"
    assert read == [
        "4: [account probe] client_secret_file: others can read it: chmod o-rwx {path}/secret (warning)"
    ] * (mode == 0o606)


def test_a_directory_in_which_others_could_replace_a_secret_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "pw").touch(mode=0o600)
    account = "[account robot]\npassword_file = {path}/open/pw\n"
    (tmp_path / "open").chmod(0o1777)
    assert said(tmp_path, account + TOKEN) == []
    (tmp_path / "open").chmod(0o777)
    assert said(tmp_path, account + TOKEN) == [
        "2: [account robot] password_file: "
        "others can write to {path}/open, where it is: chmod o-w {path}/open"
    ]


def test_a_secret_file_of_an_account_that_no_token_uses_is_only_a_warning(tmp_path: Path) -> None:
    (tmp_path / "pw").touch()
    (tmp_path / "pw").chmod(0o602)
    assert said(tmp_path, "[account robot]\npassword_file = {path}/pw\n") == [
        "2: [account robot] password_file: others can write it: chmod o-w {path}/pw (warning)"
    ]


def test_the_permissions_of_a_credential_are_not_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    account = "[account robot]\npassword_file = credential:pw\n"
    assert said(tmp_path, account + TOKEN) == [
        "2: [account robot] password_file: there is no such file (warning)"
    ]
    (tmp_path / "pw").touch()
    (tmp_path / "pw").chmod(0o662)
    assert said(tmp_path, account + TOKEN) == []


def test_a_configuration_without_a_secret_may_be_readable_for_others(tmp_path: Path) -> None:
    build(tmp_path, AGENT + TOKEN)
    os.chmod(tmp_path / "config.ini", 0o644)
    files = [str(tmp_path / "config.ini")]
    assert schema.build(ini.read(files)[0], files)[1] == []


def test_a_missing_secret_file_is_a_warning(tmp_path: Path) -> None:
    assert said(tmp_path, AGENT.replace("robot.pw", "gone.pw")) == [
        "2: [account robot] password_file: there is no such file (warning)"
    ]


def test_outside_of_the_service_a_credential_is_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert said(tmp_path, "[account robot]\npassword_file = credential:robot\n") == []


# Errors


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("[acount robot]", "is not a section of this program; did you mean account?"),
        ("[tokens x]", "is not a section of this program; did you mean token?"),
        ("[general]", "is not a section of this program"),
        ("[renewer robot]", "is not a section of this program; did you mean renewer?"),
        ("[account]", "must be [account NAME], the name without white space"),
        ("[token a b]", "must be [token NAME], the name without white space"),
        ("[token --help]", "a name must not begin with '-'"),
        ("[token ../x]", "a name must not contain '/', nor be '.' or '..'"),
        ("[token a/b]", "a name must not contain '/', nor be '.' or '..'"),
        ("[token ..]", "a name must not contain '/', nor be '.' or '..'"),
        ("[token a\u200bb]", "a name must not contain white space or control characters"),
        ("[token a\x7fb]", "a name must not contain white space or control characters"),
    ],
)
def test_an_unknown_or_misnamed_section_is_refused(tmp_path: Path, section: str, problem: str) -> None:
    shown = section.replace("\u200b", "\\u200b").replace("\x7f", "\\x7f")
    assert said(tmp_path, f"# comment\n{section}\n") == [f"2: {shown} {problem}"]


@pytest.mark.parametrize("name", ["--help", "a/b", ".."])
def test_a_wrong_name_of_an_account_is_a_warning(tmp_path: Path, name: str) -> None:
    (warning,) = said(tmp_path, f"[account {name}]\n")
    assert (warning.startswith(f"1: [account {name}] a name must not "), warning.endswith(" (warning)")) == (
        True,
        True,
    )
    assert not said(tmp_path, f"[account {name}]\n[token t]\naccount = {name}\ntoken_path = /t\n")[
        1
    ].endswith(" (warning)")


def test_a_long_title_is_shown_in_part(tmp_path: Path) -> None:
    (problem,) = said(tmp_path, f"[{'x' * 100_000}]\n")
    assert len(problem) < 300


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("account = --help", "account: a name must not begin with '-'"),
        ("account = ../robot", "account: a name must not contain '/', nor be '.' or '..'"),
        ("account = other", "account: there is no [account] section of this name"),
        ("account =", "account: is missing"),
        ("token_path =", "token_path: is missing"),
        ("token_path = x.token", "token_path: must be an absolute path"),
        ("token_path = /tmp/", "token_path: must be the path of a file, not of a directory"),
        ("min_lifetime = 10 min", "min_lifetime: must be a number of seconds"),
        ("min_lifetime = -1", "min_lifetime: must be a number of seconds"),
        ("min_lifetime = 99999999999", "min_lifetime: must be a number of seconds from 0 to 315360000"),
        ("mode = rw-r-----", "mode: must be an octal mode of three or four digits, as 0600"),
        ("mode = 0680", "mode: must be an octal mode of three or four digits, as 0600"),
        ("mode = 0666", "mode: must not let others write"),
        ("on_expiry = delete", "on_expiry: must be one of keep, remove"),
        ("group = 4294967295", "group: must be a name, or a number that a user or group can have"),
        ("owner = con\x1bdor", "owner: must not contain control characters"),
        ("audience = one t\0wo", "audience: must not contain control characters"),
        ("scope = re\x7fad", "scope: must not contain control characters"),
        ("token_path = /a\0b", "token_path: a path must be one line"),
        ("claims = maybe", "claims: must be one of warn, enforce"),
        ("scope = %(gone)s", "scope: refers with %(…)s to an option that does not exist"),
    ],
)
def test_a_wrong_option_of_a_token_is_refused(tmp_path: Path, option: str, problem: str) -> None:
    name = option.split()[0]
    good = {"account": "robot", "token_path": "/x"}
    lines = [f"{key} = {value}" for key, value in good.items() if key != name]
    (found,) = said(tmp_path, AGENT + "[token x]\n" + "\n".join([*lines, option]) + "\n")
    # A missing option is reported at its section.
    assert found.startswith(f"{3 if 'missing' in problem else 4 + len(lines)}: [token x] {problem}")


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        (
            "token_request_url = http://issuer.example.org/",
            "token_request_url: must be https: plain http is only for this host's loopback",
        ),
        (
            "issuer = http://issuer.example.org/",
            "issuer: must be https: plain http is only for this host's loopback",
        ),
        ("issuer = issuer.example.org", "issuer: must be an https URL"),
        ("client_auth = digest", "client_auth: must be one of auto, basic, basic-encoded, post"),
        ("source = ssh-agent", "source: must be one of oidc-agent, client-credentials"),
        ("timeout = soon", "timeout: must be a number of seconds"),
        ("timeout = 0", "timeout: must be a number of seconds from 1 to 3600"),
        ("timeout = 3601", "timeout: must be a number of seconds from 1 to 3600"),
        ("client_id = pro\0be", "client_id: must not contain a NUL character"),
        ("ca_file = ca.pem", "ca_file: must be an absolute path"),
        ("client_id =", "client_id: is missing"),
        ("source = %(gone)s", "source: refers with %(…)s to an option that does not exist"),
        (
            "token_request_url = %(gone)s",
            "token_request_url: refers with %(…)s to an option that does not exist",
        ),
    ],
)
def test_a_wrong_option_of_an_account_is_refused(tmp_path: Path, option: str, problem: str) -> None:
    name = option.split()[0]
    good = {"token_request_url": "https://i/", "client_id": "probe", "client_secret": "s"}
    lines = [f"{key} = {value}" for key, value in good.items() if key != name]
    (found,) = said(tmp_path, "[account probe]\n" + "\n".join([*lines, option]) + "\n" + OF_PROBE)
    assert found.startswith(f"{1 if 'missing' in problem else 2 + len(lines)}: [account probe] {problem}")


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("workers = 0", "workers: must be a number from 1 to 10000"),
        ("workers = many", "workers: must be a number"),
        ("state_dir = state", "state_dir: must be an absolute path"),
        ("runtime_dir = ./run", "runtime_dir: must be an absolute path"),
        ("run_timeout = 0", "run_timeout: must be a number of seconds from 1 to 3600"),
        ("spread = 1 h", "spread: must be a number of seconds"),
        ("spread = -60", "spread: must be a number of seconds"),
        ("spread = 10 %", "spread: must be a number of seconds"),
        ("spread = 99999999999", "spread: must be a number of seconds from 0 to 315360000"),
    ],
)
def test_a_wrong_option_of_the_program_is_refused(tmp_path: Path, option: str, problem: str) -> None:
    assert said(tmp_path, f"[renewer]\n{option}\n") == [f"2: [renewer] {problem}"]


def test_two_tokens_with_the_same_path_are_refused(tmp_path: Path) -> None:
    again = "[token y]\naccount = robot\ntoken_path = {path}/./x.token\n"
    assert said(tmp_path, AGENT + TOKEN + again) == ["8: [token y] token_path: is also the path of [token x]"]


def test_a_problem_of_an_account_is_not_reported_again_for_its_token(tmp_path: Path) -> None:
    (found,) = said(tmp_path, AGENT + "timeout = soon\n" + TOKEN)
    assert found.startswith("3: [account robot] timeout: must be a number of seconds")


# Unknown options


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            TOKEN + "audiance = ce\n",
            "6: [token x] audiance: is not an option here and is ignored; did you mean audience? (warning)",
        ),
        (
            TOKEN + "min-lifetime = 5\n",
            "6: [token x] min-lifetime: is not an option here and is ignored; "
            "did you mean min_lifetime? (warning)",
        ),
        (TOKEN + "colour = blue\n", "6: [token x] colour: is not an option here and is ignored (warning)"),
        (
            "paswordfile = x\n",
            "3: [account robot] paswordfile: is not an option here and is ignored; "
            "did you mean password_file? (warning)",
        ),
        (
            "[renewer]\nworker = 5\n",
            "4: [renewer] worker: is not an option here and is ignored; did you mean workers? (warning)",
        ),
        (
            TOKEN + "colour = %(gone)s\n",
            "6: [token x] colour: is not an option here and is ignored (warning)",
        ),
    ],
)
def test_an_unknown_option_is_a_warning_with_the_nearest_known_name(
    tmp_path: Path, text: str, warning: str
) -> None:
    assert said(tmp_path, AGENT + text) == [warning]


def test_an_option_of_another_source_is_a_warning(tmp_path: Path) -> None:
    assert said(tmp_path, AGENT + "client_id = probe\nca_file = relative\n" + TOKEN) == [
        "4: [account robot] ca_file: is not used by accounts of oidc-agent (warning)",
        "3: [account robot] client_id: is not used by accounts of oidc-agent (warning)",
    ]
    found, problems = build(
        tmp_path, CLIENT + "source = client-credentials\npassword_file =\nca_file = /ca.pem\n"
    )
    assert problems == [
        "6: [account probe] password_file: is not used by accounts of client-credentials (warning)"
    ]
    assert found.accounts["probe"].settings.ca_file == "/ca.pem"


def test_an_option_of_another_source_may_come_from_default(tmp_path: Path) -> None:
    assert said(tmp_path, "[DEFAULT]\nca_file = /ca.pem\n" + AGENT + CLIENT) == []


def test_an_option_that_another_refers_to_is_not_unknown(tmp_path: Path) -> None:
    assert (
        said(
            tmp_path,
            "[DEFAULT]\ndir = {path}\n[account robot]\nfile = robot.pw\npassword_file = %(dir)s/%(file)s\n",
        )
        == []
    )


def test_a_broken_default_that_no_section_uses_is_ignored(tmp_path: Path) -> None:
    """As in the original."""
    text = (
        "[DEFAULT]\ntoken_path = {path}/%(account)s.token\n"
        + AGENT
        + "[token x]\naccount = robot\n[renewer]\n"
    )
    found, problems = build(tmp_path, text)
    assert (problems, [token.path for token in found.tokens]) == ([], [f"{tmp_path}/robot.token"])


def test_a_broken_reference_is_reported_where_the_option_is_written(tmp_path: Path) -> None:
    (found,) = said(tmp_path, "[DEFAULT]\nscope = %(gone)s\n" + AGENT + TOKEN)
    assert found.startswith("2: [token x] scope: refers with %(…)s to an option that does not exist")


# Secrets


@pytest.mark.parametrize(
    "lines",
    [
        "{secret}",
        "client_secret {secret}",
        "= {secret}",
        "[{secret}",
        "[account a\n{secret}]",
        "client_secret = a\n{secret}==",
        "client_secret = a\n{secret}==\n{secret}==",
        "client_secret = {secret}\nclient_secret = {secret}",
        "client_secert = {secret}",
        "client_secret = %({secret})s",
        "client_secret = %(client_secret)s{secret}",
        "client_id = {secret}\n  {secret}\n{secret}",
        "client_auth = {secret}",
        "source = {secret}",
        "timeout = {secret}",
        "ca_file = {secret}",
        "token_request_url = {secret}",
        "token_request_url = https://user:{secret}@i/",
        "token_request_url = https://i:{secret}/",
        "token_request_url = http://{secret}/",
        "token_request_url = https://i/ {secret}",
        "client_secret_file = credential:../{secret}",
        "[token x]\naccount = {secret}",
        "[token x]\naccount = ../{secret}",
        "[token x]\naccount = a\ntoken_path = {secret}",
        "[token x]\naccount = a\ntoken_path = /{secret}/",
        "[token x]\naccount = a\ntoken_path = /{secret}\n[token y]\naccount = a\ntoken_path = /{secret}",
        "[token x]\naccount = a\ntoken_path = /x\nmin_lifetime = {secret}",
        "[token x]\naccount = a\ntoken_path = /x\nmode = {secret}",
        "[token x]\naccount = a\ntoken_path = /x\nclaims = {secret}",
        "[renewer]\nworkers = {secret}",
        "[renewer]\nstate_dir = {secret}",
        "[account b]\npassword_file = {secret}",
        "[account b]\npassword_file = {secret}\ntoken_request_url = {secret}",
    ],
)
def test_no_message_shows_the_content_of_a_line(tmp_path: Path, lines: str) -> None:
    secret = "S3cr3tW0rd"
    file = tmp_path / "config.ini"
    file.write_text(CLIENT.replace("probe]", "a]") + lines.replace("{secret}", secret) + "\n")
    sections, wrong = ini.read([str(file)])
    problems = wrong + schema.build(sections, [str(file)])[1]
    assert problems
    for shown in (*map(str, problems), str(ConfigError(problems)), repr(ConfigError(problems))):
        assert secret.lower() not in shown.lower()
