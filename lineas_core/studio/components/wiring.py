"""JavaScript by which the page's components tell its scene (`scene.js`) what has changed."""

from __future__ import annotations

# What the page's storage holds, and whether this is the same page loaded again: then what was on
# the screen comes back, and else the address comes first.
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
    """Tell it a field's value."""
    return f"(value) => {{ {_tell('field', f'[{kind!r}, {name!r}, value]')} }}"


def field_and_follow(kind: str, name: str) -> str:
    """Tell it a field's value, and have what is on the screen follow."""
    return (
        f"(value) => {{ {_tell('field', f'[{kind!r}, {name!r}, value]')} {_tell('follow', '0')} }}"
    )


def again(kind: str) -> str:
    """Ask for a view anew, though its question may be the same."""
    return f"() => {{ {_tell('again', repr(kind))} }}"


def opened(tab: str) -> str:
    """Tell it that a tab is open."""
    return f"() => {{ {_tell('tab', repr(tab))} }}"


def _tell(event: str, detail: str) -> str:
    return f"document.dispatchEvent(new CustomEvent('lineas:{event}', {{ detail: {detail} }}));"
