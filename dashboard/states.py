"""What a page says where there is nothing to show: a sentence and the next command, each state its own."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import streamlit as st

from dashboard import data
from experiments.results.reading.ablations import AblationResults
from experiments.schema.store import Store, StoreError

REFRESH = 5  # seconds between looks at an ablation that is running

PASSWORD = re.compile(r"(?<=://)([^\s:/@]+):[^\s@]+(?=@)")  # in the address of a database or server
MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~$:^&@!]|^[-+=]|(?<=^\d)[.)])")


def plain(text: object) -> str:
    """Text of the store for Markdown, which shows it as it is: a name holds no link, picture or formula."""
    return MARKDOWN.sub(r"\\\1", " ".join(str(text).split()))


def say(kind: str, text: str, command: str = "") -> None:
    """One state: `kind` is info (nothing yet), warning (something is missing) or error (something is wrong).

    text:     plain words, shown as they are but for passwords in addresses
    command:  what to run next
    """
    {"info": st.info, "warning": st.warning, "error": st.error}[kind](plain(PASSWORD.sub(r"\1:…", text)))
    if command:
        st.code(command, language="bash")


@contextmanager
def told() -> Iterator[None]:
    """Show a fault of the store as a sentence instead of a page."""
    try:
        yield
    except StoreError as error:
        say("error", str(error))


def empty_store(store: Store) -> None:
    """No ablation has been started."""
    say(
        "info",
        f"No ablation has been run yet in {store.address}. This one trains four arms in about ten minutes:",
        "python experiments/run.py ablation=lr_clip",
    )


def no_predictions(arm: str) -> None:
    """An arm has runs, and none of them stored detections."""
    say("warning", f"No detections were stored by {arm}: its runs have not been evaluated yet, failed, or were lost.")


def live(results: AblationResults, draw: Callable[[AblationResults], None]) -> None:
    """Draw a part of a page from the results, and while the ablation is running again and again from newer ones."""
    if results.state != "running":
        draw(results)
        return

    @st.fragment(run_every=REFRESH)
    def refreshed() -> None:
        with told():
            now = data.results(results.run_id)
            draw(now)
            if now.state != "running":
                st.rerun()  # as a page that stands still

    refreshed()
    st.caption(f"This ablation is running; what is shown here is read again every {REFRESH} seconds.")
