// What is wrong with contrast, names and landmarks of a page, and the number of texts that were looked at.
() => {
  const wrong = [], shown = (e) => e.checkVisibility({ visibilityProperty: true }) && !e.closest(".unseen, .skip");
  const channels = (text) => text.match(/[\d.]+/g).map(Number);
  const light = (c) => { const [r, g, b] = c.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const contrast = (a, b) => (Math.max(light(a), light(b)) + .05) / (Math.min(light(a), light(b)) + .05);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = channels(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] > 0) return c; } return [255, 255, 255]; };
  const check = (e, style, what) => { const ratio = contrast(channels(style.color), ground(e));
    if (ratio < 4.5) wrong.push(`contrast ${ratio.toFixed(2)}: ${what}`); };
  let texts = 0;
  for (const e of document.body.querySelectorAll("*")) {
    if (!shown(e)) continue;
    const text = [...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
    if (text && !["SCRIPT", "STYLE"].includes(e.tagName)) { texts++; check(e, getComputedStyle(e), text); }
    if (e.placeholder) check(e, getComputedStyle(e, "::placeholder"), e.placeholder);
  }
  for (const e of document.querySelectorAll("input, button, a, dialog, section, [role=search], ul[id], img")) {
    const ids = (e.getAttribute("aria-labelledby") || "").split(" ").filter(Boolean);
    const name = e.getAttribute("aria-label") || ids.map((id) => document.getElementById(id)?.textContent).join(" ")
      || [...(e.labels || [])].map((l) => l.textContent).join(" ")
      || (["BUTTON", "A"].includes(e.tagName) ? e.textContent : "");
    if (e.tagName === "IMG" ? !e.hasAttribute("alt") : !name.trim()) wrong.push(`no name: ${e.outerHTML.slice(0, 90)}`);
  }
  for (const e of document.querySelectorAll("[aria-describedby], [aria-labelledby], label[for], output[for]"))
    for (const list of ["aria-describedby", "aria-labelledby", "for"])
      for (const id of (e.getAttribute(list) || "").split(" ").filter(Boolean))
        if (!document.getElementById(id)) wrong.push(`no element ${id}`);
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  if (new Set(ids).size !== ids.length) wrong.push("an id is used twice");
  for (const one of ["main", "header", "h1", "[role=search]", "html[lang]", "[role=status]"])
    if (!document.querySelector(one)) wrong.push(`no ${one}`);
  return [wrong, texts];
}
