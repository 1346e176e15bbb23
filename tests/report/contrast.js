// The text with the lowest contrast on the page: [ratio, which], as WCAG 2.2 defines the ratio.
() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const over = (...colours) => {
    for (const colour of colours) {
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
    }
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const behind = (node) => {
    const found = [];
    for (; node; node = node.parentElement) found.unshift(getComputedStyle(node).backgroundColor);
    return [getComputedStyle(document.body).backgroundColor, ...found];
  };
  const kinds = "#rows .w, #list li span, #verdict span, .note, figcaption, th, td, dt, dd, a, p, small, h3";
  return [...document.querySelectorAll(kinds)]
    .filter((node) => node.textContent.trim() && node.offsetParent)
    .map((node) => {
      const [a, b] = [light(over(...behind(node))), light(over(...behind(node), getComputedStyle(node).color))];
      const which = `${node.tagName}.${node.className}: ${node.textContent.slice(0, 20)}`;
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), which];
    })
    .sort(([one], [other]) => one - other)[0];
};
