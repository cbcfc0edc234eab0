"""JavaScript with which components notify the page's scene (`scene.js`) of changes."""

from __future__ import annotations

# Reads the session from the browser's storage, and whether the same page was reloaded. After a
# reload the previous screen is restored; otherwise the address takes precedence.
STORED = """(key) => {
    const read = (name) => {
        try { return window[name].getItem("lineas-session") ?? ""; } catch { return ""; }
    };
    const again = performance.getEntriesByType("navigation")[0]?.type === "reload";
    const own = read("sessionStorage");
    const session = own || read("localStorage");
    return [key, JSON.stringify({ again: again && own !== "", session })];
}"""


def field(kind: str, name: str) -> str:
    """JavaScript that sends a field's value to the scene."""
    return f"(value) => {{ {_tell('field', f'[{kind!r}, {name!r}, value]')} }}"


def field_and_follow(kind: str, name: str) -> str:
    """JavaScript that sends a field's value to the scene and updates the visible view."""
    return (
        f"(value) => {{ {_tell('field', f'[{kind!r}, {name!r}, value]')} {_tell('follow', '0')} }}"
    )


def again(kind: str) -> str:
    """JavaScript that requests a view again, even if its question has not changed."""
    return f"() => {{ {_tell('again', repr(kind))} }}"


def opened(tab: str) -> str:
    """JavaScript that tells the scene which tab is open."""
    return f"() => {{ {_tell('tab', repr(tab))} }}"


def _tell(event: str, detail: str) -> str:
    return f"document.dispatchEvent(new CustomEvent('lineas:{event}', {{ detail: {detail} }}));"
