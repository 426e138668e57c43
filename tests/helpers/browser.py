"""A page in a real headless browser, Chromium or Chrome: what it looks like, what it asks for, what it complains of."""

from __future__ import annotations

import html
import http.server
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FOUND = os.environ.get("STDL_BROWSER") or next((name for name in NAMES if shutil.which(name)), None)
needs_browser = pytest.mark.skipif(FOUND is None, reason=f"there is no browser: none of {', '.join(NAMES)}")
PROBE = Path(__file__).with_name("page_probe.html")


@dataclass(frozen=True)
class Seen:
    """phone, desk: what `page_probe.html` found at 360 and 1200 px; asked: paths that the server was asked for."""

    phone: dict[str, Any]
    desk: dict[str, Any]
    asked: list[str]
    console: list[str]


def look(page: Path, *, dark: bool) -> Seen:
    """Open a page. It is served, not opened as a file, so that the probe may look into it and every request is seen."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            file = {"/probe.html": PROBE, "/report.html": page}.get(self.path)
            self.send_response(200 if file else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            if file:
                self.wfile.write(file.read_bytes())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = _opened(f"http://127.0.0.1:{server.server_address[1]}/probe.html", dark)
        server.shutdown()
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    said = re.search(r'<script type="application/json" id="found">(.*?)</script>', done.stdout, re.DOTALL)
    assert said, done.stderr
    found = json.loads(said[1] if said[1].startswith("{") else html.unescape(said[1]))
    assert found, done.stderr
    return Seen(found["phone"], found["desk"], asked, console)


def _opened(address: str, dark: bool) -> subprocess.CompletedProcess[str]:
    """No name but this machine's resolves: whatever a page asks for elsewhere fails, and is complained of."""
    assert FOUND is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        return subprocess.run(
            [
                FOUND, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}",
                "--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--virtual-time-budget=10000",
                "--window-size=1600,1000", "--dump-dom", address,
            ],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
