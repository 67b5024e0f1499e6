"""The dashboard in a real browser, on a session that runs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
import youquanti
from conftest import ROOT
from service import Service

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


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path, "shown")
    yield service
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait() == 0, service.log.read_text()


@pytest.fixture
def page(service: Service, tmp_path: Path) -> Iterator[browser.Page]:
    with service.client():  # runs
        page = browser.Page(tmp_path, f"http://127.0.0.1:{service.port}/")
    yield page
    page.close()


def test_a_session_is_seen_and_steered(service: Service, page: browser.Page) -> None:
    page.wait_for("document.querySelectorAll('.camera').length === 2")
    page.wait_for("document.getElementById('state').textContent === 'running'")
    page.wait_for("document.querySelectorAll('.person').length === 2")
    page.wait_for("[...document.querySelectorAll('.camera canvas')].every(canvas => canvas.dataset.seq)")
    page.wait_for("[...document.querySelectorAll('.bars i')].some(bar => parseFloat(bar.style.width) > 20)")
    page.wait_for("[...document.querySelectorAll('.camera .badge')].every(badge => badge.textContent === 'running')")
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
    page.wait_for("document.querySelector('#event-list [data-kind=marker]')")
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
    page.wait_for("document.querySelector('.camera[data-camera=\"right\"] .badge').textContent === 'paused'")
    page.wait_for("document.querySelector('#event-list [data-kind=gap_opened]')")
    page.screenshot(SHOTS / "dashboard_paused.png")
    page.evaluate("document.querySelector('.camera[data-camera=\"right\"] [data-command=resume_camera]').click()")
    page.wait_for("document.querySelector('#event-list [data-kind=camera_resumed]')")
    page.wait_for("!document.getElementById('record').disabled")
    page.press("r")
    page.wait_for("document.getElementById('state').textContent === 'running'")
    assert page.errors == []
    with youquanti.load(service.folder / "sessions/from/dashboard.h5") as session:
        assert "Grace" in {row["name"] for row in session.participants}
        assert len(session.gaps) == 1
