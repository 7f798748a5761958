"""developers.toml is edited as a person would: nothing of anybody else's moves."""

from __future__ import annotations

import tomllib
from datetime import date

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ops.developers import roster
from ops.developers.roster import add, change, diff, remove
from ops.errors import SettingsError
from ops.settings import Developer

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
TOKEN = "7f1c3c5a-9d0b-4c1e-8a51-0d3a2f6b9c11"
OPERATORS = f"""\
# who changes the machine

[operators.anna]
addresses = ["198.51.100.20"]   # at home
keys = ["{KEY} anna"]
"""
FILE = f"""\
# the team
{OPERATORS}
# Developers reach the edge.

# Bob is here until spring
[developers.bob]  # front end
addresses = [
    "198.51.100.7",   # office
    "2001:db8:b0b::/48",
]
# his laptop
keys = ["{KEY} [x] # bob"]

# carl wanted two
[developers.carl]
addresses = ['198.51.100.8']
expires = 2027-02-19  # the last day
"""
FULL = Developer.model_validate(
    {
        "addresses": ["198.51.100.9", "2001:db8:9::/48"],
        "keys": [f'{KEY} d"o\\ra'],
        "access": "write",
        "collections": ["knowledge_library"],
        "expires": date(2027, 2, 19),
        "token": TOKEN,
    }
)
SMALL = Developer.model_validate({"addresses": ["198.51.100.9"]})


def people(text: str) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = tomllib.loads(text).get("developers", {})
    return found


def test_a_person_is_added_at_the_end_in_the_order_of_the_example() -> None:
    key = KEY.encode().decode()
    assert add(FILE, "dora", FULL) == FILE + (
        "\n[developers.dora]\n"
        'addresses = ["198.51.100.9", "2001:db8:9::/48"]\n'
        f'keys = ["{key} d\\"o\\\\ra"]\n'
        'access = "write"\n'
        'collections = ["knowledge_library"]\n'
        "expires = 2027-02-19\n"
        f'token = "{TOKEN}"\n'
    )
    assert add(OPERATORS, "dora", SMALL) == OPERATORS + (
        '\n[developers.dora]\naddresses = ["198.51.100.9"]\n'
    )
    assert 'access = "read"' in add(
        FILE, "dora", FULL.model_copy(update={"access": "read", "token": ""})
    )


def test_a_person_is_removed_with_their_comments_and_nothing_of_the_others() -> None:
    start = FILE.index("# Bob is here")
    end = FILE.index("# carl wanted")
    assert remove(FILE, "bob") == FILE[:start] + FILE[end:]
    without = remove(FILE, "carl")
    assert without == FILE[: FILE.index("\n# carl wanted")]
    assert remove(without, "bob") == FILE[: start - 1]


def test_a_comment_that_heads_a_section_stays() -> None:
    text = OPERATORS + "\n# Developers reach the edge.\n[developers.bob]\naddresses = ['::1']\n"
    assert remove(text, "bob") == OPERATORS + "\n# Developers reach the edge.\n"
    # what follows the values at once is about them, unless it heads the next table
    more = "# bob is away\n\n# carl comes\n[developers.carl]\naddresses = ['::2']\n"
    assert remove(text + more, "bob") == (
        OPERATORS + "\n# Developers reach the edge.\n\n" + more[more.index("# carl") :]
    )
    close = "# carl comes\n[developers.carl]\naddresses = ['::2']\n"
    assert remove(text + close, "bob").endswith("# Developers reach the edge.\n" + close)


def test_one_value_is_changed_and_its_line_keeps_its_comment() -> None:
    changed = change(FILE, "carl", expires=date(2028, 1, 1))
    assert changed == FILE.replace("2027-02-19  #", "2028-01-01  #")
    added = change(FILE, "carl", token=TOKEN, collections=["notes"])
    assert added == FILE + f'token = "{TOKEN}"\ncollections = ["notes"]\n'
    assert change(added, "carl", token="", collections=[]) == FILE
    assert change(FILE, "carl", expires=None) == FILE.replace(
        "expires = 2027-02-19  # the last day\n", ""
    )
    assert change(FILE, "carl", expires=date(2027, 2, 19)) == FILE


def test_an_address_goes_and_comes_without_touching_its_neighbours() -> None:
    more = change(FILE, "bob", addresses=["198.51.100.7", "2001:db8:b0b::/48", "198.51.100.70"])
    kept = [line for line in FILE.splitlines() if line not in more.splitlines()]
    assert kept in ([], ['    "2001:db8:b0b::/48",'])
    assert people(more)["bob"]["addresses"] == [
        "198.51.100.7",
        "2001:db8:b0b::/48",
        "198.51.100.70",
    ]
    fewer = change(FILE, "bob", addresses=["198.51.100.7/32"])
    assert people(fewer)["bob"]["addresses"] == ["198.51.100.7"]
    assert '"198.51.100.7",   # office' in fewer
    assert people(fewer)["carl"] == people(FILE)["carl"]


# the ways in which a file may be written; each is edited, or refused and left alone
FORMS = {
    "tables": "[developers.bob]\naddresses = ['198.51.100.7']\n",
    "quoted": "['developers' . \"bob\"]\naddresses = ['198.51.100.7']\n",
    "a table of inline tables": "[developers]\n# us\nbob = { addresses = ['198.51.100.7'] }  # B\n",
    "an inline table": "developers = { bob = { addresses = ['198.51.100.7'] } }\n",
    "dotted keys": "[developers]\n# us\nbob.addresses = ['198.51.100.7']\n",
    "dotted keys on top": "developers.bob.addresses = ['198.51.100.7']\n",
    "before the operators": "[developers.bob]\naddresses = ['198.51.100.7']\n# end\n\n",
    "no line end": "[developers.bob]\naddresses = ['198.51.100.7']",
    "windows": "# us\r\n[developers.bob]\r\naddresses = ['198.51.100.7']\r\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_the_file(form: str) -> None:
    if form in ("an inline table", "dotted keys on top", "before the operators"):
        text = FORMS[form] + OPERATORS
    else:
        text = OPERATORS.replace("\n", "\r\n" if form == "windows" else "\n") + FORMS[form]
    others = tomllib.loads(text)["operators"]
    more = add(text, "dora", FULL)
    assert people(more).keys() == {"bob", "dora"}
    assert people(more)["dora"]["expires"] == date(2027, 2, 19)
    assert remove(more, "dora") == text
    changed = change(text, "bob", access="write", addresses=["198.51.100.77"])
    assert people(changed)["bob"] == {"addresses": ["198.51.100.77"], "access": "write"}
    without = remove(text, "bob")
    assert people(without) == {}
    for edited in (more, changed, without):
        assert tomllib.loads(edited)["operators"] == others
        assert edited.count("#") >= text.count("#") - 1
        if form == "windows":
            assert edited.count("\n") == edited.count("\r\n")


def test_an_edit_that_says_anything_else_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster, "_appended", lambda text, *_: text + "[developers.eve]\n")
    monkeypatch.setattr(roster, "_cut_out", lambda *_: "")
    monkeypatch.setattr("tomlkit.dumps", lambda _: "broken")
    for edit in (lambda: add(FILE, "dora", SMALL), lambda: remove(FILE, "bob")):
        with pytest.raises(SettingsError, match="only a person can edit"):
            edit()


def test_names_that_are_taken_or_not_there() -> None:
    with pytest.raises(SettingsError, match=r"bob is in developers\.toml already"):
        add(FILE, "bob", SMALL)
    for edit in (lambda: remove(FILE, "bobb"), lambda: change(FILE, "bobb", token=TOKEN)):
        with pytest.raises(SettingsError) as caught:
            edit()
        assert caught.value.message == (
            "there is no developer 'bobb' (listed: bob, carl); did you mean bob?"
        )
    with pytest.raises(SettingsError, match=r"'bob' \(listed: nobody\)$"):
        remove(OPERATORS, "bob")
    with pytest.raises(SettingsError, match="is not valid TOML"):
        add("[developers", "bob", SMALL)
    with pytest.raises(ValueError, match="no fields of a developer: adress"):
        change(FILE, "bob", adress="198.51.100.7")


@pytest.mark.parametrize("name", ["a.b", "a]\nb = 1\n[c", '"', "", "x y", "[a]"])
def test_a_name_never_becomes_more_than_a_name(name: str) -> None:
    try:
        text = add(FILE, name, SMALL)
    except SettingsError:
        return
    assert people(text).keys() == {"bob", "carl", name}


def test_the_difference_is_shown_line_by_line() -> None:
    shown = diff(FILE, change(FILE, "carl", expires=date(2028, 1, 1)))
    assert shown.splitlines()[:2] == [
        "--- developers.toml (as it is)",
        "+++ developers.toml (changed)",
    ]
    assert "-expires = 2027-02-19  # the last day\n+expires = 2028-01-01  # the last day" in shown
    assert diff(FILE, FILE) == ""


# any file: pieces in any order, with blank lines and comments wherever they may stand
NAMES = ["bob", "carl", "ed-die", "eve_2"]
GAPS = st.sampled_from(
    ["", "\n", "\n\n", "# a note\n", "\n# dora was here\n\n", "  # [x]\n", "\t\n"]
)


@st.composite
def files(draw: st.DrawFn) -> str:
    tables = [("operators", "anna")]
    tables += [("developers", n) for n in draw(st.lists(st.sampled_from(NAMES), unique=True))]
    pieces = [draw(GAPS)]
    for kind, name in draw(st.permutations(tables)):
        header = draw(st.sampled_from(["[{}.{}]", "[ {} . '{}' ]", '[{}."{}"]  # {{}}']))
        several = draw(st.booleans())
        values = (
            '[\n  "198.51.100.7",  # [office]\n\n  # none\n]' if several else '["198.51.100.7"]'
        )
        pieces += [
            header.format(kind, name).replace("{}", name),
            "\n",
            draw(GAPS),
            f"addresses = {values}",
            draw(st.sampled_from(["\n", "  # here\n"])),
            draw(GAPS),
            draw(st.sampled_from(["", "expires = 2027-02-19\n", "anywhere = false # no\n"])),
            draw(GAPS),
        ]
    text = "".join(pieces)
    text = text.rstrip("\n") if draw(st.booleans()) else text
    return text.replace("\n", "\r\n") if draw(st.booleans()) else text


@given(files(), st.sampled_from([FULL, SMALL]))
@example("", SMALL)
@example("\n", SMALL)
def test_added_and_removed_is_as_before(text: str, fields: Developer) -> None:
    added = add(text, "dora", fields)
    assert added.startswith(text)
    assert people(added) == people(text) | {"dora": people(added)["dora"]}
    assert remove(added, "dora") == text


@given(files())
def test_removing_one_leaves_the_others_and_their_comments(text: str) -> None:
    for name in people(text):
        without = remove(text, name)
        assert people(without) == {k: v for k, v in people(text).items() if k != name}
        assert tomllib.loads(without)["operators"] == tomllib.loads(text)["operators"]
        # every line that is left stood there, in that order
        rest = iter(text.splitlines())
        assert all(line in rest for line in without.splitlines())


@given(
    files(), st.sampled_from([{"token": TOKEN}, {"expires": date(2030, 1, 1)}, {"access": "write"}])
)
def test_a_change_is_of_one_persons_lines_only(text: str, fields: dict[str, object]) -> None:
    for name in people(text):
        changed = change(text, name, **fields)
        assert people(changed)[name] == people(text)[name] | fields
        assert remove(changed, name) == remove(text, name)


@given(files())
def test_whatever_is_set_and_unset_is_as_before(text: str) -> None:
    for name in people(text):
        assert change(change(text, name, token=TOKEN), name, token="") == text
