"""The console's files as the API serves them; no browser needed."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from api.routes.console import FOLDER
from tests.api.house import House, build

POLICY = {
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "img-src 'self' data:",
    "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
}  # fmt: skip


@pytest.fixture(scope="module")
def house() -> House:
    return build()


def _get(house: House, path: str, **headers: str):
    return house.call("GET", path, key=None, headers={name.replace("_", "-"): value for name, value in headers.items()})


def _served() -> list[str]:
    return [path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.suffix in (".js", ".css", ".svg")]


def test_the_page_is_public_and_strict(house: House) -> None:
    page = _get(house, "/")
    assert (page.status_code, page.content_type) == (200, "text/html; charset=utf-8")
    assert set(page.headers["Content-Security-Policy"].split("; ")) == POLICY
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["X-Frame-Options"] == "DENY"
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert not re.findall(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page.text), "nothing inline"


def test_everything_that_is_named_is_there(house: House) -> None:
    page = _get(house, "/").text
    wanted = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(wanted) > 5
    for name in _served():
        text = (FOLDER / name).read_text()
        wanted += re.findall(r'"(/console/[^"]+)"', text)
        for module in re.findall(r'from "(\.[^"]+)"', text):
            wanted.append(
                "/console/" + (FOLDER / name).parent.joinpath(module).resolve().relative_to(FOLDER).as_posix()
            )
    for path in {path for path in wanted if path != "/apidocs"}:
        assert _get(house, path).status_code == 200, path


def test_files_have_their_types_and_answer_304(house: House) -> None:
    types = {"app.js": "text/javascript", "styles/base.css": "text/css", "mark.svg": "image/svg+xml"}
    for name, media_type in types.items():
        answer = _get(house, f"/console/{name}")
        assert answer.content_type.split(";")[0] == media_type
        assert answer.headers["Cache-Control"] == "no-cache"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        again = _get(house, f"/console/{name}", If_None_Match=answer.headers["ETag"])
        assert (again.status_code, again.data) == (304, b"")
        assert again.headers["ETag"] == answer.headers["ETag"]
    tags = {_get(house, f"/console/{name}").headers["ETag"] for name in types}
    assert len(tags) == len(types)


@pytest.mark.parametrize(
    "path",
    ["/console", "/console/", "/console/nope.js", "/console/../app.py", "/console/%2e%2e/app.py", "/console/views",
     "/console/vendor/README.md", "/console//etc/passwd", "/index.html"],
)  # fmt: skip
def test_what_is_not_there_is_a_json_404(house: House, path: str) -> None:
    answer = _get(house, path)
    assert (answer.status_code, answer.json["error"]["code"]) == (404, "not_found")


def test_nothing_can_be_sent_to_it(house: House) -> None:
    answer = house.call("POST", "/", json={})
    assert (answer.status_code, answer.json["error"]["code"]) == (405, "method_not_allowed")


def test_it_is_not_in_the_document(house: House) -> None:
    assert not [
        path
        for path in _get(house, "/openapi.json").json["paths"]
        if not path.startswith(("/api/", "/health", "/livez", "/readyz", "/v1", "/metrics"))
    ]


def test_it_loads_nothing_from_elsewhere() -> None:
    own = [FOLDER / name for name in _served() if not name.startswith("vendor/")]
    for path in [*own, FOLDER / "index.html"]:
        found = re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}[^\s\"'`)]*", path.read_text())
        assert [url for url in found if "www.w3.org" not in url] == [], path


def test_text_is_never_made_markup() -> None:
    for name in _served():
        text = (FOLDER / name).read_text()
        if not name.startswith("vendor/"):
            assert not re.findall(
                r"innerHTML|outerHTML|insertAdjacentHTML|dangerouslySet|document\.write|\beval\(|new Function", text
            ), name


def _keys(language: str) -> dict[str, str]:
    return dict(
        re.findall(r'^  "?([\w.-]+)"?: (.+),$', (FOLDER / "words" / f"{language}.js").read_text(), re.MULTILINE)
    )


def test_every_text_that_is_asked_for_exists() -> None:
    english = _keys("en")
    asked, families = set(), set()
    for name in _served():
        if not name.startswith(("vendor/", "words/")):
            text = (FOLDER / name).read_text()
            asked |= set(re.findall(r'\bt\("([^"]+)"', text))
            families |= set(re.findall(r"\bt\(`([\w.]+)\.\$\{", text))
    assert len(asked) > 100
    assert asked - set(english) == set()
    assert {family for family in families if not any(key.startswith(f"{family}.") for key in english)} == set()


def test_the_chinese_texts_are_complete_and_fill_in_the_same() -> None:
    english, chinese = _keys("en"), _keys("zh-hant")
    assert set(english) - set(chinese) == set()
    for key, text in chinese.items():
        if key in english and not english[key].startswith("{"):
            assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", english[key])), key


def test_an_installed_package_has_the_files(repository: Path, tmp_path: Path) -> None:
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
        (copy / name).write_bytes((repository / name).read_bytes())
    for room in ("api", "smarttextgen"):
        for path in (repository / room).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                target = copy / path.relative_to(repository)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(copy)],
        check=True, capture_output=True,
    )  # fmt: skip
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        inside = set(wheel.namelist())
    assert {f"api/console/{name}" for name in _served()} <= inside
    assert {"api/console/index.html", "api/console/vendor/LICENSE.htm.txt"} <= inside
