"""Looks at every page of the dashboard with a real Chromium: `browser.py CHROMIUM URL [FOLDER]`, the tokens of an operator and of a
viewer in WEFT_OPERATOR and WEFT_VIEWER, a folder for signs to who makes calls in WEFT_SIGNS. Calls between services go on meanwhile, and there are two revisions. Pictures of the pages
go to the folder, where one is named. Prints a line for what holds; anything else is an error."""

import os
import pathlib
import sys

from playwright.sync_api import sync_playwright

CHROMIUM, URL = sys.argv[1:3]
FOLDER = pathlib.Path(sys.argv[3]) if len(sys.argv) > 3 else None
DESK, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
# For whatever depends on what others do meanwhile.
SOON = 30_000
VIOLATIONS = """
    window.violations = [];
    document.addEventListener("securitypolicyviolation", (it) => window.violations.push(it.violatedDirective + " " + it.blockedURI));
"""


def look(browser, **more):
    """A browser of its own, whose pages may complain of nothing."""
    context = browser.new_context(**{"viewport": DESK, **more})
    context.set_default_timeout(SOON)
    context.add_init_script(VIOLATIONS)
    page = context.new_page()
    page.complaints = []
    page.on("console", lambda it: page.complaints.append(it.text) if it.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    return page


def is_well(page, scripts=True):
    assert not page.complaints, (page.url, page.complaints)
    if scripts:
        assert page.evaluate("window.violations") == [], (page.url, page.evaluate("window.violations"))
    wide = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide[0] <= wide[1], (page.url, "scrolls sideways", wide)


def until(page, holds):
    """Waits until an expression holds. By asking: the pages' policy forbids to leave a text there to be evaluated."""
    for _ in range(SOON // 100):
        if page.evaluate(holds):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"{page.url}: never {holds}")


def log_in(page, token):
    page.goto(f"{URL}/login")
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{URL}/")


def picture(page, name):
    if FOLDER:
        page.screenshot(path=FOLDER / f"{name}.png")


def two_traces(page):
    page.goto(f"{URL}/traces?service=orders")
    boxes = page.get_by_role("checkbox", name="Compare trace")
    assert boxes.count() >= 2
    return [boxes.nth(number).get_attribute("value") for number in (0, 1)]


def pages(browser):
    """Every page, light and dark, on a desk and on a phone."""
    for scheme, viewport in (("light", DESK), ("dark", DESK), ("light", PHONE)):
        page = look(browser, color_scheme=scheme, viewport=viewport)
        log_in(page, os.environ["WEFT_VIEWER"])
        first, second = two_traces(page)
        for name, path, says in [
            ("map", "/", "Who calls whom"),
            ("service", "/services/default/orders", "Endpoints"),
            ("traces", "/traces?since=1h&attribute=weft.tls%3Dmutual", "Compare the two"),
            ("trace", f"/traces/{first}", "critical path"),
            ("compare", f"/compare?id={first}&id={second}", "Hop by hop"),
            ("tap-form", "/tap", "While nobody looks"),
            ("policies", "/policies", "Revisions, newest first"),
            ("document", "/policies/document?kind=TrafficPolicy&namespace=default&name=orders", "targetRef"),
            ("revision", "/policies/1", "You look on as a viewer"),
            ("identities", "/identities", "spiffe://mesh.local/ns/default/sa/orders"),
            ("sidecars", "/sidecars", "in sync"),
            ("explain", "/explain?from=web&to=orders:8080&method=GET&path=/orders/7", "Who may answer"),
        ]:
            page.goto(URL + path)
            assert says in page.locator("main").inner_text(), (path, page.locator("main").inner_text()[:1000])
            assert page.locator("h1").count() == 1 and page.title().endswith(" - Weft"), path
            is_well(page)
            picture(page, f"{name}-{scheme}-{viewport['width']}")
        tap(page, f"{scheme}-{viewport['width']}")
        page.context.close()
    print("pages: every page is well, light and dark, on a desk and on a phone")


def tap(page, name):
    """A request that passes is shown while the page is still being written, and nobody looks any more when it is closed."""
    page.goto(f"{URL}/tap?service=orders&path=/orders/*", wait_until="commit")
    row = page.locator(".log tbody tr").first
    row.wait_for()
    assert "/orders/7" in row.inner_text() and "token=" not in row.inner_text(), row.inner_text()
    page.locator(".log tbody tr").nth(9).wait_for()
    is_well(page)
    picture(page, f"tap-{name}")
    page.get_by_role("link", name="Stop").click()
    page.wait_for_url(f"{URL}/tap")
    for _ in range(300):
        if "\nweft_tap_readers 0" in page.context.request.get(f"{URL}/metrics").text():
            return
        page.wait_for_timeout(100)
    raise AssertionError("somebody still looks")


def ejected(browser):
    """An endpoint that fails is shown as left alone by the page as it is, and as back when it works again."""
    page, signs = look(browser), pathlib.Path(os.environ["WEFT_SIGNS"])
    page.goto(f"{URL}/services/default/payments")
    row = lambda name: page.get_by_role("region", name="Endpoints").locator("tbody tr").filter(has_text=name)
    for name in ("pay-1", "pay-2"):
        row(name).filter(has_text="closed").wait_for()
    (signs / "calls").touch()
    row("pay-1").filter(has_text="open at default/web").wait_for()
    assert "closed" in row("pay-2").inner_text() and "open" not in row("pay-2").inner_text(), row("pay-2").inner_text()
    assert "default/pay-1" in page.get_by_role("region", name="Circuit breakers that are not closed").inner_text()
    is_well(page)
    picture(page, "ejected")
    (signs / "seen").touch()
    row("pay-1").filter(has_text="closed").wait_for()
    page.get_by_text("All are closed.").wait_for()
    is_well(page)
    page.context.close()
    print("ejected: an endpoint that fails is shown as left alone, and as back when it works")


def live(browser):
    """The page is refreshed in its place: no load, and what had the focus has it still. It can be paused by keyboard."""
    page = look(browser)
    page.goto(f"{URL}/")
    page.locator("svg.map a").first.focus()
    link = page.evaluate("document.activeElement.getAttribute('href')")
    for _ in range(2):
        page.evaluate("window.before = document.querySelector('main h1')")
        numbers = page.locator(".tiles").inner_text()
        until(page, "document.querySelector('main h1') !== window.before")
    assert page.evaluate("document.activeElement.getAttribute('href')") == link
    page.evaluate("numbers => { window.numbers = numbers }", numbers)
    until(page, "document.querySelector('.tiles').innerText !== window.numbers")
    page.get_by_role("button", name="Pause").press("Enter")
    assert page.locator("#fresh").inner_text() == "paused"
    is_well(page)
    page.context.close()
    print("live: the map follows the mesh, and the reader keeps the place")


def keyboard(browser):
    """From the top: to the content, the pages in their order, then what is on the page."""
    page = look(browser)
    page.goto(f"{URL}/")
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("(document.activeElement.textContent || document.activeElement.getAttribute('aria-label')).trim()"))
    order = ["To the content", "Map", "Traces", "Tap", "Policies", "Identities", "Sidecars", "Explain", "Pause", "Log in", "1m", "10m", "1h", "6h"]
    assert reached[: len(order)] == order, reached
    assert any("orders" in text for text in reached[len(order) :]), reached
    page.goto(f"{URL}/")
    page.keyboard.press("Tab")
    assert page.locator(".skip").bounding_box()["x"] >= 0, "it is seen when it has the focus"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.context.close()
    print("keyboard: everything is reached, in the order in which it is read")


def without_scripts(browser):
    page = look(browser, java_script_enabled=False)
    log_in(page, os.environ["WEFT_VIEWER"])
    first, _ = two_traces(page)
    for path, says in [("/", "orders"), ("/services/default/orders", "p99"), (f"/traces/{first}", "weft.tls"), ("/policies", "TrafficPolicy")]:
        page.goto(URL + path)
        assert says in page.locator("main").text_content(), path
    assert page.locator("noscript meta").count() == 0
    page.goto(f"{URL}/")
    assert page.locator("head meta[http-equiv=refresh]").count() == 1, "the browser itself loads it anew"
    tap(page, "no-scripts")
    is_well(page, scripts=False)
    page.context.close()
    print("scripts: every page is whole without them")


def rollback(browser):
    """An operator goes back; a viewer, a form of nobody's and one of another site change nothing."""
    viewer, operator = look(browser), look(browser)
    log_in(viewer, os.environ["WEFT_VIEWER"])
    log_in(operator, os.environ["WEFT_OPERATOR"])
    viewer.goto(f"{URL}/policies/1")
    assert viewer.get_by_role("button", name="Roll back").count() == 0
    proof = lambda page: page.locator(".who input[name=proof]").get_attribute("value")
    way = f"{URL}/policies/1/rollback"
    for page, form, headers in [
        (viewer, {"now": "2", "proof": proof(viewer)}, {}),
        (operator, {"now": "2"}, {}),
        (operator, {"now": "2", "proof": proof(viewer)}, {}),
        (operator, {"now": "2", "proof": proof(operator)}, {"sec-fetch-site": "cross-site"}),
    ]:
        answer = page.context.request.post(way, form=form, headers=headers, max_redirects=0)
        assert answer.status == 403, (answer.status, form, answer.text())
    stale = operator.context.request.post(way, form={"now": "1", "proof": proof(operator)}, max_redirects=0)
    assert stale.status == 409 and "look at it with" in stale.text(), stale.text()
    operator.goto(f"{URL}/policies")
    assert operator.locator("main").inner_text().count("TrafficPolicy default/orders") >= 1
    operator.get_by_role("link", name="1", exact=True).click()
    assert "deleted TrafficPolicy default/orders" in operator.locator("main").inner_text()
    picture(operator, "rollback")
    operator.get_by_role("button", name="Roll back to revision 1").click()
    operator.wait_for_url(f"{URL}/policies/3")
    operator.goto(f"{URL}/policies")
    first = operator.get_by_role("region", name="Revisions, newest first").locator("tbody tr").first.inner_text()
    assert "rollback" in first and "dashboard" in first, first
    is_well(operator)
    operator.get_by_role("button", name="Log out").click()
    operator.wait_for_url(f"{URL}/")
    assert operator.context.request.get(f"{URL}/policies").status == 401
    print("rollback: an operator goes back, and nobody else")


def compares(browser):
    page = look(browser)
    page.goto(f"{URL}/traces?service=orders")
    for number in (0, 1):
        page.get_by_role("checkbox", name="Compare trace").nth(number).check()
    page.get_by_role("button", name="Compare the two").click()
    page.wait_for_url("**/compare?**")
    text = page.locator("main").inner_text()
    assert "Hop by hop" in text and "Difference" in text, text
    page.get_by_role("link").filter(has=page.locator("code")).first.click()
    page.get_by_label("Compare with trace").fill("0" * 32)
    page.get_by_role("button", name="Compare").click()
    page.get_by_role("alert").wait_for()
    page.context.close()
    print("compare: two traces stand beside each other, hop by hop")


with sync_playwright() as playwright:
    # In a test's network namespace there is nobody to be kept away from, and as root Chromium runs in no other way.
    chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
    for check in (ejected, pages, live, keyboard, without_scripts, compares, rollback):
        check(chromium)
    chromium.close()
