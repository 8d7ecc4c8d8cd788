"""*Documents*: files go in, each one's fate is told, chunks are shown, deletion and generations."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.slow


def file(name: str, text: str | bytes, media_type: str = "text/markdown") -> dict[str, object]:
    return {"name": name, "mimeType": media_type, "buffer": text.encode() if isinstance(text, str) else text}


def state_of(page: Page, name: str):
    return page.get_by_label("Files that were sent").get_by_role("listitem").filter(has_text=name)


def test_files_go_in_and_come_out_and_each_ones_fate_is_told(server, open_page):
    page = open_page(server, "#/documents")
    expect(page.get_by_role("cell", name="Lighthouse lighthouse.md")).to_be_visible()
    files = [
        file("harbour.md", "# Harbour\n\nThe harbour of Quell was dug in 1911.\n"),
        file("broken.pdf", b"%PDF-1.7 no more", "application/pdf"),
        file("<img src=x onerror=alert(1)>.md", "# Odd\n\nA file of an odd name, which is only a name.\n"),
    ]
    page.get_by_label("Choose files").last.set_input_files(files)
    expect(state_of(page, "harbour.md")).to_contain_text("indexed · 1 chunks", timeout=60_000)
    broken = state_of(page, "broken.pdf")
    expect(broken).to_contain_text("failed")
    expect(broken.get_by_role("alert")).to_contain_text("What to do:")
    expect(page.get_by_role("row").filter(has_text="<img src=x onerror=alert(1)>.md")).to_be_visible()
    row = page.get_by_role("row").filter(has_text="harbour.md")
    row.get_by_role("button", name="Harbour", exact=True).click()
    expect(page.get_by_role("dialog")).to_contain_text("dug in 1911")
    page.keyboard.press("Escape")
    row.get_by_role("button", name="Chunks of harbour.md").click()
    expect(page.get_by_role("dialog").get_by_role("listitem")).to_contain_text("The harbour of Quell was dug in 1911.")
    page.keyboard.press("Escape")
    page.once("dialog", lambda dialog: dialog.dismiss())
    row.get_by_role("button", name="Delete harbour.md").click()
    expect(row).to_be_visible()
    page.once("dialog", lambda dialog: dialog.accept())
    row.get_by_role("button", name="Delete harbour.md").click()
    expect(row).to_have_count(0)


def test_a_folder_goes_in_without_losing_files_of_one_name(server, open_page, tmp_path):
    for part in ("north", "south"):
        (tmp_path / "isles" / part).mkdir(parents=True)
        (tmp_path / "isles" / part / "index.md").write_text(f"# {part}\n\nThe {part} isle has a mill.\n")
    (tmp_path / "isles" / ".hidden.md").write_text("# hidden\n\nnobody means this\n")
    page = open_page(server, "#/documents")
    page.get_by_label("Choose a folder").last.set_input_files(tmp_path / "isles")
    page.get_by_role("link", name="Jobs").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Jobs")
    page.go_back()
    for part in ("north", "south"):
        expect(state_of(page, f"isles - {part} - index.md")).to_contain_text("indexed", timeout=60_000)
    expect(state_of(page, "hidden")).to_have_count(0)
    page.get_by_label("Name of the file").fill("isles")
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_label("Documents", exact=True).get_by_role("row")).to_have_count(3)
    page.get_by_label("Name of the file").fill("no such name")
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_text("No document has this in its name.")).to_be_visible()


def test_the_index_is_rebuilt_and_rolled_back(server, open_page):
    page = open_page(server, "#/documents")
    index = page.get_by_label("Index", exact=True).first
    expect(index.get_by_text("up to date")).to_be_visible()
    index.get_by_role("button", name="Rebuild").click()
    expect(page.get_by_label("Rebuild the index", exact=True).get_by_text("done")).to_be_visible(timeout=60_000)
    newest = index.locator("tbody tr").first
    expect(newest).to_contain_text("in use")
    page.once("dialog", lambda dialog: dialog.accept())
    index.get_by_role("button", name="Use the generation before").click()
    expect(index.locator("tbody tr").nth(1)).to_contain_text("in use")


def test_files_can_be_dropped_and_go_to_another_collection(server, open_page):
    page = open_page(server, "#/documents")
    page.get_by_text("Collection and tags").click()
    page.get_by_role("textbox", name="Collection").fill("attic")
    page.get_by_label("Tags").fill("old, dusty")
    drop = """(zone) => {
        const data = new DataTransfer();
        data.items.add(new File(['# Attic\\n\\nThe attic holds a loom from 1788.\\n'], 'attic.md'));
        zone.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));
    }"""
    page.locator(".drop").evaluate(drop)
    expect(state_of(page, "attic.md")).to_contain_text("indexed", timeout=60_000)
    page.get_by_role("combobox", name="Collection").select_option("attic")
    row = page.get_by_role("row").filter(has_text="attic.md")
    expect(row).to_contain_text("olddusty")
    expect(page.get_by_role("cell", name="Lighthouse lighthouse.md")).to_have_count(0)


def test_a_refused_upload_is_told_at_its_file(server, open_page):
    page = open_page(server, "#/documents", allowed=["status of 422"])
    page.get_by_text("Collection and tags").click()
    page.get_by_role("textbox", name="Collection").fill("../../etc")
    page.get_by_label("Choose files").last.set_input_files([file("fine.md", "# Fine\n\nFine.\n")])
    expect(state_of(page, "fine.md").get_by_role("alert")).to_contain_text("1 to 64 letters")


def test_chunks_are_shown_before_anything_is_stored(scripted, indexed, open_page):
    page = open_page(scripted, "#/documents")
    before = indexed.store.documents.count()
    page.get_by_text("Look at the chunks of a file first").click()
    page.get_by_label("Chunk size").fill("20")
    words = " ".join(f"word{n}" for n in range(60))
    page.get_by_label("Preview a file").last.set_input_files([file("long.md", f"# Long\n\n{words}. {words}.\n")])
    expect(page.get_by_role("dialog")).to_contain_text("chunks of at most 20 tokens")
    assert page.get_by_role("dialog").get_by_role("listitem").count() > 3
    assert indexed.store.documents.count() == before


def test_a_page_of_a_thousand_documents_comes_in_parts(scripted, indexed, open_page, tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    for n in range(60):
        (notes / f"note-{n:02}.md").write_text(f"# Note {n}\n\nNote number {n}.\n")
    indexed.ingestor.ingest("default", [notes])
    page = open_page(scripted, "#/documents")
    rows = page.get_by_label("Documents", exact=True).locator("tbody tr")
    expect(rows).to_have_count(50)
    page.get_by_role("button", name="Show more").click()
    expect(rows).to_have_count(62)


def test_on_a_phone_everything_of_a_row_is_in_reach(scripted, open_page):
    page = open_page(scripted, "#/documents", viewport={"width": 390, "height": 844})
    row = page.get_by_role("row").filter(has_text="lighthouse.md")
    row.scroll_into_view_if_needed()
    for name in ("Chunks of", "Delete"):
        expect(row.get_by_role("button", name=name)).to_be_in_viewport(ratio=0.99)
