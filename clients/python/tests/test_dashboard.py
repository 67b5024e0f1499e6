"""The dashboard in a real browser, on a session that runs."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import pytest
import youquanti
from conftest import ROOT
from service import Service, with_gpus

#: Where screenshots are kept.
SHOTS = ROOT / "target" / "screenshots"

#: The box of pixels in the colour of P1 on the first camera's picture, with only boxes drawn.
DRAWN = """(() => {
    const canvas = document.querySelector('.camera[data-camera="left"] canvas');
    const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const box = [Infinity, Infinity, -Infinity, -Infinity];
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
        const at = 4 * (y * width + x);
        if (data[at] === 0x57 && data[at + 1] === 0xb8 && data[at + 2] === 0x94) {
            box[0] = Math.min(box[0], x); box[1] = Math.min(box[1], y);
            box[2] = Math.max(box[2], x); box[3] = Math.max(box[3], y);
        }
    }
    return { box, size: [width, height], seq: Number(canvas.dataset.seq) };
})()"""

#: A camera's badge, the number of the picture that is drawn, and whether an event is in the list.
BADGE = "document.querySelector('.camera[data-camera=\"{}\"] .badge').textContent"
SEQ = "Number(document.querySelector('.camera[data-camera=\"{}\"] canvas').dataset.seq)"
EVENT = "document.querySelector('#event-list [data-kind={}]')"

#: A WebSocket that wants everything at full rate, a few times.
GREEDY = """for (let n = 0; n < 4; n++) {
    const socket = new WebSocket(`ws://${location.host}/api/v1/live`, "youquanti.v1");
    socket.onopen = () => socket.send(JSON.stringify({ type: "subscribe", results: { landmarks: true } }));
    socket.onmessage = () => (window.heard = (window.heard ?? 0) + 1);
}"""

#: Everything that can be operated now, in the order of the page.
CONTROLS = """[...document.querySelectorAll("button, input, select, [tabindex]")]
    .filter((control) => !control.disabled && control.checkVisibility())"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path, "shown")
    yield service
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait() == 0, service.log.read_text()
    assert "ledger: closes" in service.log.read_text()


@pytest.fixture
def page(service: Service, tmp_path: Path) -> Iterator[browser.Page]:
    yield from open_page(service, tmp_path)


@pytest.fixture
def rehearsal(tmp_path: Path) -> Iterator[Service]:
    """A session whose camera `right` is pulled out again and again, because a slow browser may miss the first times."""
    faults = 'pause = "1s"\n[[fault]]\nkind = "unplug"\ncamera = "right"\nfor = "3s"\nrepeat = 10_000\n'
    service = Service(tmp_path, "unplugged", faults)
    yield service
    if service.process.poll() is None:
        service.process.kill()


def open_page(service: Service, folder: Path) -> Iterator[browser.Page]:
    """The dashboard once it shows everything."""
    with service.client():  # runs
        page = browser.Page(folder, f"http://127.0.0.1:{service.port}/")
    page.wait_for("document.querySelectorAll('.camera').length === 2")
    page.wait_for("[...document.querySelectorAll('.camera canvas')].every(canvas => canvas.dataset.seq)")
    yield page
    page.close()
    assert page.errors == []


def unread(service: Service) -> int:
    """Bytes that the program has sent and no client has taken, as the system counts them."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[4].split(":")[0], 16) for row in rows if int(row[1].split(":")[1], 16) == service.port)


def assert_no_frame_lost(ledger: dict[str, Any]) -> None:
    """No frame that the program had is missing in its index, or has found no slot.

    A simulated camera on a computer that stands still loses frames before the program has them; those are not meant.
    """
    for name, camera in ledger.items():
        dropped = [camera["consumers"][consumer]["dropped"] for consumer in ("index", "pipeline")]
        lost = sum(dropped[0].values()) + dropped[1]["no_slot"]
        assert lost == 0, (name, camera)


def test_a_session_is_seen_and_steered(service: Service, page: browser.Page) -> None:
    page.wait_for("document.getElementById('state').textContent === 'running'")
    page.wait_for("document.querySelectorAll('.person').length === 2")
    page.wait_for("[...document.querySelectorAll('.bars i')].some(bar => parseFloat(bar.style.width) > 20)")
    page.wait_for("[...document.querySelectorAll('.camera .badge')].every(badge => badge.textContent === 'running')")
    page.wait_for("/GB free on disk/.test(document.getElementById('disk').textContent)")
    page.wait_for("document.querySelector('.camera').textContent.includes('drawn after')")
    delay = page.evaluate("document.querySelector('.camera').camera.delays.at(-1)")
    assert 0 < delay["received_ms"] <= delay["drawn_ms"] < 60_000 and delay["error_ms"] < delay["drawn_ms"], delay
    asked = "import('/ui/api.js').then(({ picture }) => picture('lift', 0)).catch(({ status, message }) => [status, message])"
    assert page.evaluate(asked) == [404, "there is no such camera"]
    page.screenshot(SHOTS / "dashboard.png")

    # Only boxes: what has P1's colour is where the interface says that P1 is.
    for name in ("mesh", "axes"):
        page.evaluate(f"document.getElementById('overlay').elements.{name}.checked = false")
    seq = page.evaluate(DRAWN)["seq"]
    page.wait_for(f"{DRAWN}.seq > {seq}")
    with service.client() as client, client.live(events=False, results=True, cameras=["left"]) as live:
        found: dict[int, youquanti.Result] = {}
        for message in live:
            assert isinstance(message, (youquanti.Result, youquanti.Missed))
            if isinstance(message, youquanti.Result):
                found[message.seq] = message
            drawn = page.evaluate(DRAWN)
            # The very frame that is drawn, and P1 in it.
            faces = found[drawn["seq"]].faces if drawn["seq"] in found else []
            if faces and faces[0].participant == "P1":
                break
        scale = drawn["size"][0] / live.picture_sizes["left"][0]
        x0, _, x1, y1 = faces[0].bbox * scale
        # Above the box is its label, which may also be wider; the line is 1.5 px wide.
        assert abs(drawn["box"][0] - x0) < 3 and abs(drawn["box"][3] - y1) < 3, (drawn, faces[0].bbox)
        assert drawn["box"][2] > x1 - 3

    # Hot-keys and buttons.
    page.press("1")
    page.wait_for(EVENT.format("marker"))
    page.evaluate("document.getElementById('recording-name').value = 'from/dashboard'")
    page.press("r")
    page.wait_for("document.getElementById('state').textContent === 'recording'")
    page.evaluate("""(() => {
        const form = document.querySelector('.person[data-participant="P1"] form');
        form.querySelector('input').value = 'Grace';
        form.requestSubmit();
    })()""")
    page.wait_for("document.querySelector('.person[data-participant=\"P1\"] h2').textContent === 'Grace (P1)'")
    page.evaluate("document.querySelector('.camera[data-camera=\"right\"] [data-command=pause_camera]').click()")
    page.wait_for(f"{BADGE.format('right')} === 'paused'")
    page.wait_for(EVENT.format("gap_opened"))
    page.screenshot(SHOTS / "dashboard_paused.png")
    page.evaluate("document.querySelector('.camera[data-camera=\"right\"] [data-command=resume_camera]').click()")
    page.wait_for(EVENT.format("camera_resumed"))
    page.wait_for("!document.getElementById('record').disabled")
    page.press("r")
    page.wait_for("document.getElementById('state').textContent === 'running'")

    # On paper, and in the light.
    page.screenshot(SHOTS / "dashboard_print.png", media="print")
    page.evaluate("document.getElementById('theme').click()")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.screenshot(SHOTS / "dashboard_light.png")
    with youquanti.load(service.folder / "sessions/from/dashboard.h5") as session:
        assert "Grace" in {row["name"] for row in session.participants}
        assert len(session.gaps) == 1


def test_a_camera_that_is_pulled_out_is_seen_to_go_and_to_come_back(rehearsal: Service, tmp_path: Path) -> None:
    for page in open_page(rehearsal, tmp_path):
        page.press("r")
        page.wait_for("document.getElementById('state').textContent === 'recording'")
        page.wait_for(f"{BADGE.format('right')} === 'away'")
        page.wait_for(EVENT.format("gap_opened"))
        page.wait_for("document.querySelector('.camera[data-camera=\"right\"]').textContent.includes('no frames for')")
        page.screenshot(SHOTS / "dashboard_unplugged.png")
        seq = page.evaluate(SEQ.format("right"))
        page.wait_for(EVENT.format("gap_closed"))
        page.wait_for(f"{SEQ.format('right')} > {seq}")
        page.wait_for(f"{BADGE.format('right')} === 'running'")
        page.wait_for("/ [1-9][0-9]* restart/.test(document.querySelector('.camera[data-camera=\"right\"]').textContent)")
        page.screenshot(SHOTS / "dashboard_plugged_in.png")
        assert page.evaluate(SEQ.format("left")) > 0
        with rehearsal.client() as client:
            left = {"left": client.ledger()["left"]}
            file = client.stop_recording()["path"]
    assert_no_frame_lost(left)
    rehearsal.process.send_signal(signal.SIGINT)
    rehearsal.process.wait()
    matrix = json.loads(rehearsal.matrix.read_text())
    assert [row["ledger_closed"] for row in matrix["outcomes"]] == [True]
    with youquanti.load(rehearsal.folder / file) as session:
        assert {gap["source"] for gap in session.gaps} == {"right"}
        assert all("is not connected" in gap["cause"] for gap in session.gaps)


def test_a_browser_that_never_reads_costs_no_frame(service: Service, page: browser.Page, tmp_path: Path) -> None:
    (tmp_path / "deaf").mkdir()
    for deaf in open_page(service, tmp_path / "deaf"):
        deaf.evaluate(GREEDY)
        deaf.wait_for("window.heard > 8")
        deaf.freeze()
        deadline = time.monotonic() + browser.PATIENCE
        while unread(service) < 1_000_000:
            assert time.monotonic() < deadline, "what is sent to it goes somewhere"
            time.sleep(0.05)
        # The other browser sees the session go on.
        for name in ("left", "right"):
            seq = page.evaluate(SEQ.format(name))
            page.wait_for(f"{SEQ.format(name)} > {seq + 15}")
        with service.client() as client:
            assert_no_frame_lost(client.ledger())


def test_without_pictures_faces_are_drawn_alone_and_gpus_are_shown(tmp_path: Path) -> None:
    service = Service(tmp_path, "blind", environment=with_gpus(tmp_path), more="[preview]\nenabled = false\n")
    try:
        for page in open_page(service, tmp_path):
            page.wait_for("document.getElementById('gpus').textContent.includes('12.5 of 80.0 GB, 45 % busy; Some')")
            for name in ("boxes", "axes"):
                page.evaluate(f"document.getElementById('overlay').elements.{name}.checked = false")
            # The mesh of P1, at least as wide as an eye, on pixels of the camera.
            page.wait_for(f"(({{ box, size }}) => box[2] - box[0] > 20 && size[0] === 640)({DRAWN})")
            page.screenshot(SHOTS / "dashboard_without_pictures.png")
    finally:
        service.process.terminate()
        service.process.wait()


def test_what_a_recording_lacks_is_said_and_somebody_decides_to_record_all_the_same(tmp_path: Path) -> None:
    service = Service(tmp_path, "lacking", more="require_faces = true\n")
    try:
        for page in open_page(service, tmp_path):
            with service.client() as client:
                client.pause_camera("right")
            offer = "document.getElementById('override-form').checkVisibility()"
            focus = "document.activeElement.id === '{}'"
            assert not page.evaluate(offer)
            page.wait_for("document.getElementById('state').textContent === 'running'")

            # Said, and then left; all of it by keyboard.
            page.press("r")
            page.wait_for(offer)
            missing = page.evaluate("document.getElementById('override-missing').textContent")
            assert missing in ("0 of 2 faces in view", "1 of 2 faces in view")
            assert page.evaluate(focus.format("override-by"))
            page.screenshot(SHOTS / "dashboard_override.png")
            page.call("Input.insertText", text="Somebody")
            page.press("Escape")
            page.wait_for(f"!{offer} && {focus.format('record')}")

            # Nobody's decision is none, and what was typed before is not the next one's.
            page.press("r")
            page.wait_for(offer)
            page.press("Enter")
            assert page.evaluate(f"{focus.format('override-by')} && document.activeElement.value === ''")
            with service.client() as client:
                assert client.state()["state"] == "running"
            page.call("Input.insertText", text="Ada")
            page.press("Tab")
            page.call("Input.insertText", text="Ben comes later")
            page.press("Enter")
            page.wait_for("document.getElementById('state').textContent === 'recording'")
            page.wait_for(f"!{offer} && {focus.format('record')}")
            page.press("r")
            page.wait_for("document.getElementById('state').textContent === 'running'")
            # The browser says of both refusals that they were.
            assert len(page.errors) == 2 and all("409" in error for error in page.errors), page.errors
            page.errors.clear()
        (path,) = service.folder.glob("sessions/*.h5")
        with youquanti.load(path) as session:
            assert session.overridden is not None
            assert (session.overridden["by"], session.overridden["reason"]) == ("Ada", "Ben comes later")
            (lacked,) = session.overridden["missing"]
            assert lacked in ("0 of 2 faces in view", "1 of 2 faces in view")
            assert session.recorded_by == "Ada"
    finally:
        service.process.terminate()
        service.process.wait()


def test_every_control_is_reached_by_keyboard(page: browser.Page) -> None:
    page.wait_for("document.querySelectorAll('.person').length === 2")
    page.wait_for("document.querySelectorAll('.camera [data-command=resume_camera]:disabled').length === 2")
    count = page.evaluate(f"(window.controls = {CONTROLS}).length")
    assert count > 20
    reached = []
    for _ in range(count):
        page.press("Tab")
        place, width, style = page.evaluate("""(() => {
            const { outlineWidth, outlineStyle } = getComputedStyle(document.activeElement);
            return [controls.indexOf(document.activeElement), parseFloat(outlineWidth), outlineStyle];
        })()""")
        reached.append(place)
        assert width >= 2 and style == "solid", f"focus is not seen on {page.evaluate('document.activeElement.outerHTML')}"
    assert reached == list(range(count)), page.evaluate("controls.map((control) => control.outerHTML)")

    def focus(what: str) -> None:
        page.evaluate(f"document.querySelector({what!r}).focus()")

    # Without a mouse: a marker, an overlay, another plot, one marker less.
    focus("#marker-buttons button:nth-child(2)")
    page.press("Enter")
    page.wait_for(f"{EVENT.format('marker')}?.textContent.includes('end')")
    focus("[name=mesh]")
    page.press(" ")
    assert page.evaluate("document.querySelector('[name=mesh]').checked") is False
    for expected in ([False] * 3, [True] * 3):
        page.press("o")
        assert page.evaluate("[...document.querySelectorAll('#overlay input')].map((box) => box.checked)") == expected
    focus(".person select")
    before = page.evaluate("document.querySelector('.person select').value")
    page.press("ArrowDown")
    page.wait_for(f"document.querySelector('.person select').value !== {before!r}")
    # Before somebody is renamed, what that means is said.
    hint = "document.querySelector('.person form .quiet')"
    assert not page.evaluate(f"{hint}.checkVisibility()")
    focus(".person form input")
    assert page.evaluate(f"{hint}.checkVisibility() && {hint}.textContent.includes('LSL streams stay P1_')")
    focus("#marker-buttons button:nth-child(2)")
    page.press("Delete")
    page.wait_for("document.querySelectorAll('#marker-buttons button').length === 3")
