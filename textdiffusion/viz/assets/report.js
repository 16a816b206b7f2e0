// Draws curves as SVG; the pointer reads their values.
(() => {
  const curves = JSON.parse(document.getElementById('curves').textContent);
  const place = document.getElementById('charts');
  const W = 460, H = 210, L = 52, R = 12, T = 10, B = 26;

  const svg = (tag, attributes, text) => {
    const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const short = (x) => {
    const size = Math.abs(x);
    if (size >= 1e6) return `${+(x / 1e6).toPrecision(3)} M`;
    if (size >= 1e4) return `${+(x / 1e3).toPrecision(3)} k`;
    if (size && size < 1e-2) return x.toExponential(1);
    return String(+x.toPrecision(4));
  };
  const ticks = (low, high, count) => {
    const raw = (high - low) / count, unit = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((k) => k * unit).find((s) => s >= raw);
    const out = [];
    for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) out.push(v);
    return out;
  };

  for (const curve of curves) {
    const points = curve.points;
    const values = points.flatMap(([, y, e]) => [y - 2 * e, y + 2 * e]);
    if (curve.rule) values.push(curve.rule[1]);
    let low = Math.min(...values), high = Math.max(...values);
    const pad = (high - low || Math.abs(high) || 1) * 0.06;
    low -= pad; high += pad;
    const first = Math.min(points[0][0], points.length > 1 ? Infinity : 0);
    const last = Math.max(points.at(-1)[0], first + 1);
    const X = (x) => L + (W - L - R) * (x - first) / (last - first);
    const Y = (y) => T + (H - T - B) * (high - y) / (high - low);
    const line = (pairs) => pairs.map(([x, y], i) => `${i ? 'L' : 'M'}${X(x).toFixed(1)} ${Y(y).toFixed(1)}`).join('');

    const chart = svg('svg', { viewBox: `0 0 ${W} ${H}`, role: 'img', 'aria-label': curve.title });
    for (const v of ticks(low, high, 4)) {
      chart.append(svg('line', { class: 'grid', x1: L, x2: W - R, y1: Y(v), y2: Y(v) }));
      chart.append(svg('text', { x: L - 6, y: Y(v) + 4, 'text-anchor': 'end' }, short(v)));
    }
    for (const v of ticks(first, last, 5))
      chart.append(svg('text', { x: X(v), y: H - 8, 'text-anchor': 'middle' }, short(v)));
    if (points.some(([, , e]) => e)) {
      const upper = points.map(([x, y, e]) => [x, y + 2 * e]);
      const lower = points.map(([x, y, e]) => [x, y - 2 * e]).reverse();
      chart.append(svg('path', { class: 'band', d: line(upper) + line(lower).replace('M', 'L') + 'Z' }));
    }
    let shown = points;
    if (curve.smooth && points.length > 8) {
      chart.append(svg('path', { class: 'raw', d: line(points) }));
      let mean = points[0][1];
      shown = points.map(([x, y]) => [x, (mean = 0.85 * mean + 0.15 * y), 0]);
    }
    chart.append(svg('path', { class: 'smooth', d: line(shown) }));
    if (points.length < 40)
      for (const [x, y] of points) chart.append(svg('circle', { class: 'dots', cx: X(x), cy: Y(y), r: 2.6 }));
    if (curve.rule) {
      const [name, value] = curve.rule;
      chart.append(svg('line', { class: 'rule', x1: L, x2: W - R, y1: Y(value), y2: Y(value) }));
      chart.append(svg('text', { class: 'rule-name', x: W - R, y: Y(value) - 5, 'text-anchor': 'end' }, `${name} ${short(value)}`));
    }
    const cursor = svg('line', { class: 'cursor', y1: T, y2: H - B });
    chart.append(cursor);

    const box = document.createElement('div');
    box.className = 'card chart';
    const heading = document.createElement('h3'), readout = document.createElement('div');
    heading.textContent = curve.title;
    readout.className = 'readout';
    const tell = (i) => {
      const [x, y, e] = points[i];
      readout.textContent = `step ${x}: ${short(y)}` + (e ? ` ± ${short(e)}` : '') +
        (shown !== points ? `, smoothed ${short(shown[i][1])}` : '');
    };
    tell(points.length - 1);
    box.append(heading, readout, chart);
    place.append(box);
    chart.addEventListener('pointermove', (event) => {
      const area = chart.getBoundingClientRect();
      const x = (event.clientX - area.left) * W / area.width;
      let best = 0;
      points.forEach(([step], i) => { if (Math.abs(X(step) - x) < Math.abs(X(points[best][0]) - x)) best = i; });
      cursor.setAttribute('x1', X(points[best][0]));
      cursor.setAttribute('x2', X(points[best][0]));
      cursor.style.opacity = 0.6;
      tell(best);
    });
    chart.addEventListener('pointerleave', () => { cursor.style.opacity = 0; tell(points.length - 1); });
  }
})();
