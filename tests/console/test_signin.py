"""The door: wrong keys, right keys, and where a key is kept."""

from __future__ import annotations

from collections.abc import Callable

from tests.console.stack import Stack

STORED = "({...sessionStorage})"


def test_a_wrong_key_is_told_so_and_a_right_one_enters(visit: Callable, stack: Stack) -> None:
    tab = visit()
    tab.expected = {401}
    tab.open()
    field = tab.page.get_by_label("API key", exact=True)
    assert field.evaluate("field => field === document.activeElement")
    for wrong in ("stg_wrong", "schlüssel — 鑰匙"):
        field.fill(wrong)
        tab.page.keyboard.press("Enter")
        tab.page.get_by_role("alert").filter(has_text="does not know this key").wait_for()
        assert tab.page.evaluate(STORED) == {}
    field.fill(f"  {stack.key} ")
    tab.page.keyboard.press("Enter")
    tab.page.get_by_role("heading", name="Playground").wait_for()
    assert tab.page.evaluate(STORED) == {"smarttextgen.key": stack.key}
    assert stack.key not in str(tab.page.evaluate("({...localStorage})")) + tab.page.evaluate("document.cookie")


def test_it_stays_for_the_tab_and_leaves_with_sign_out(visit: Callable) -> None:
    tab = visit()
    tab.open("usage")
    tab.page.get_by_label("API key", exact=True).fill(tab.key)
    tab.page.get_by_role("button", name="Sign in").click()
    tab.page.get_by_role("heading", name="Usage").wait_for()
    tab.page.reload()
    tab.page.get_by_role("heading", name="Usage").wait_for()
    other = tab.context.new_page()
    other.goto(tab.url)
    other.get_by_label("API key", exact=True).wait_for()
    other.close()
    tab.page.get_by_role("button", name="Sign out").click()
    tab.page.get_by_label("API key", exact=True).wait_for()
    assert tab.page.evaluate(STORED) == {}
    assert tab.page.get_by_role("alert").count() == 0


def test_a_revoked_key_is_signed_out(visit: Callable, stack: Stack) -> None:
    made = stack.api.call("POST", "/api/admin/keys", {"tenant": "shop", "scopes": ["generate"]}).json
    tab = visit(made["key"])
    tab.expected = {401, 403}
    tab.open("queue")
    tab.page.get_by_label("API key", exact=True).fill(tab.key)
    tab.page.get_by_role("button", name="Sign in").click()
    tab.page.get_by_role("heading", name="Queue", exact=True).wait_for()
    assert stack.api.call("DELETE", f"/api/admin/keys/{made['id']}").status == 204
    tab.page.get_by_role("alert").filter(has_text="does not take this key any more").wait_for()
    assert tab.page.evaluate(STORED) == {}


def test_an_api_that_does_not_answer_is_told_from_a_wrong_key(visit: Callable) -> None:
    tab = visit()
    tab.open()
    tab.page.route("**/api/**", lambda route: route.abort())
    tab.page.get_by_label("API key", exact=True).fill("stg_any")
    tab.page.keyboard.press("Enter")
    tab.page.get_by_role("alert").filter(has_text="The API does not answer").wait_for()
    assert [said for said in tab.complaints if "net::ERR_FAILED" not in said] == []
    tab.complaints.clear()


def test_one_sees_what_the_key_may(visit: Callable, stack: Stack) -> None:
    views = {}
    for scope in ("generate", "admin"):
        tab = visit(stack.new_key("shop", scope))
        tab.expected = {403}
        tab.enter("")
        views[scope] = tab.page.locator(".views a").all_inner_texts()
    assert views["generate"] == ["Playground", "Jobs", "Batches", "Queue", "Usage", "Webhooks"]
    assert views["admin"] == ["Queue", "Operations"]
