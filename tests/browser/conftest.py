"""A dashboard in a real browser, on an ablation that was really trained."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox",  # containers run as root
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
TIMEOUT = 60_000  # milliseconds, on a machine that is busy with other tests
expect.set_options(timeout=TIMEOUT)
# a page that is opened by its own address asks below that address first, and gets a 404 there
EXPECTED_404 = ("/_stcore/health", "/_stcore/host-config")
TRAINED = (  # two arms with two seeds
    "ablation=lr_clip",
    "ablation.design=listed",
    'ablation.arms=[{clip: "0.1"}, {clip: "1.0"}]',
    "ablation.baseline.recipe=abbreviated",
    "seeds=[0,1]",
    "horizon=60 steps",
    "train.evaluations=3",
    "data.shapes_num_train=120",
    "data.shapes_num_val=24",
    "launcher=local",  # a process a run would import for longer than it trains
)


@pytest.fixture(scope="session")
def browser():
    """Chromium or Chrome; the tests are skipped where there is none."""
    with sync_playwright() as playwright:
        found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
        if not found and not Path(playwright.chromium.executable_path).exists():
            pytest.skip(f"no browser: neither {', '.join(BROWSERS)} in PATH nor playwright's; `make browser` gets one")
        opened = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def trained(browser, tmp_path_factory, command) -> Path:
    """Folder of a store with a finished ablation. Not trained where there is no browser to look at it."""
    folder = tmp_path_factory.mktemp("trained")
    done = command(folder, *TRAINED)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def server(trained) -> tuple[str, int]:
    """Address of the dashboard on that store, and the process that serves it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "dashboard/app.py"), "--server.port", str(port)]
    environment = os.environ | {"DETR_STORE": str(trained / "mlflow.yaml"), "OMP_NUM_THREADS": "1"}
    with (trained / "server.log").open("w") as log:
        # From another folder: the address it listens at is not to depend on it.
        process = subprocess.Popen(command, cwd=trained, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    for line in process.stdout:
        if "URL:" in line:
            break
    yield f"http://127.0.0.1:{port}", process.pid
    process.terminate()
    process.wait(10)
    process.stdout.close()


class Tab:
    """A tab of the browser, and what went wrong in it."""

    def __init__(self, browser: Browser, address: str, width: int = 1280, scheme: str = "light") -> None:
        self.address = address
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(TIMEOUT)
        self.faults: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("request", self._request)

    def open(self, path: str) -> Page:
        """Go to a page of the dashboard and wait until it is complete."""
        self.page.goto(f"{self.address}/{path}")
        self.page.get_by_role("heading", level=1).wait_for()
        self.settle()
        return self.page

    def settle(self) -> None:
        """Wait until the page's script has run."""
        self.page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not message.location.get("url", "").endswith(EXPECTED_404):
            self.faults.append(f"console: {message.text} ({message.location.get('url')})")

    def _request(self, request: Request) -> None:
        if not request.url.startswith((self.address, self.address.replace("http", "ws"), "data:", "blob:")):
            self.faults.append(f"request to another host: {request.url}")


@pytest.fixture
def tab(browser, server):
    """Make a tab: `tab(width=1920, scheme="dark")`. The test fails where a console had errors or another host was
    asked for anything.
    """
    made = []

    def make(**look) -> Tab:
        made.append(Tab(browser, server[0], **look))
        return made[-1]

    yield make
    for one in made:
        one.context.close()
    assert not [fault for one in made for fault in one.faults]
