// Shows the HTML of a recorded answer word by word. A formula appears as a whole.
export function countWords(html) {
  return leaves(fragment(html)).reduce((sum, leaf) => sum + wordsOf(leaf).length, 0);
}

// Puts the HTML into the box, without everything after the first `words` words: tables and lists grow with their words.
export function reveal(box, html, words) {
  const content = fragment(html);
  if (words === Infinity) return box.replaceChildren(content);
  let left = words;
  for (const leaf of leaves(content)) {
    const own = wordsOf(leaf);
    if (left <= 0) leaf.remove();
    else if (left < own.length) leaf.data = own.slice(0, left).join("");
    left -= own.length;
  }
  // Without its words, an item or a row would still have its mark or its lines.
  for (const element of content.querySelectorAll(":not(math, math *)"))
    if (!element.textContent.trim() && !element.querySelector("math")) element.remove();
  box.replaceChildren(content);
}

function fragment(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content;
}

// The texts and the formulas, in the order of the page. White space between elements is no text.
function leaves(content) {
  const found = [];
  const walk = (node) => {
    for (const child of node.childNodes) {
      if (child.nodeType === Node.TEXT_NODE ? child.data.trim() : child.localName === "math") found.push(child);
      else walk(child);
    }
  };
  walk(content);
  return found;
}

const wordsOf = (leaf) => (leaf.nodeType === Node.TEXT_NODE ? leaf.data.match(/\s*\S+\s*/g) : [""]);
