// Draws curves as SVG; pointer and arrow keys read their values, all at once.
(() => {
  const curves = JSON.parse(document.getElementById('metrics').textContent);
  const place = document.getElementById('charts');
  const LEFT = 46, RIGHT = 10, TOP = 10, BOTTOM = 24;

  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const svg = (tag, attributes, ...children) => {
    const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const short = (x, digits = 4) => {
    const size = Math.abs(x);
    if (size >= 1e6) return `${+(x / 1e6).toPrecision(digits)} M`;
    if (size >= 1e4) return `${+(x / 1e3).toPrecision(digits)} k`;
    if (size && size < 1e-2) return (+x.toPrecision(digits - 1)).toExponential().replace('e-', 'e−');
    return String(+x.toPrecision(digits));
  };
  const whole = (x) => x.toLocaleString('en-US');
  const ticks = (low, high, count, slack = 0.8) => {
    const raw = (high - low) / count, unit = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((k) => k * unit).find((s) => s >= raw * slack);
    const out = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) out.push(k * step);
    return out;
  };
  const first = Math.min(...curves.map((curve) => curve.points[0][0]));
  const last = Math.max(...curves.map((curve) => curve.points.at(-1)[0]), first + 1);

  const charts = curves.map((curve) => {
    const { points, rules } = curve;
    const levels = rules.map(([, level]) => level);
    const isSmoothed = points[0][3] !== null;
    let low = Math.min(...points.map(([, y, e]) => y - 2 * e), ...levels);
    let high = Math.max(...points.map(([, y, e]) => y + 2 * e), ...levels);
    const room = (high - low || Math.abs(high) || 1) * 0.06;
    // A quantity that is never negative keeps its zero, where that is near.
    low = low >= 0 && low < 0.35 * high ? 0 : low - room;
    high += room;

    const alone = curve.wide && curves.filter((other) => other.wide).length === 1;
    const readout = make('div', { class: 'readout', 'aria-live': 'polite' });
    const plot = make('div', { class: 'plot', tabindex: 0, role: 'group',
      'aria-label': `${curve.title}: left and right read its values` });
    const box = make('figure', { class: `card chart${curve.wide ? ' wide' : ''}${alone ? ' alone' : ''}` },
      make('figcaption', {}, curve.title, make('small', {}, curve.unit)), readout, plot);
    const [x0, y0] = points[0], [x1, y1] = points.at(-1);
    const label = `${curve.title} ${curve.unit}, ${short(y0)} at step ${whole(x0)}, ${short(y1)} at step ${whole(x1)}` +
      rules.map(([name, level]) => `; ${name} ${short(level)}`).join('');

    let X, marks = [];
    function draw() {
      const width = Math.max(plot.clientWidth, 200), height = curve.wide ? 230 : 165;
      const Y = (y) => TOP + (height - TOP - BOTTOM) * (high - y) / (high - low);
      X = (x) => LEFT + (width - LEFT - RIGHT) * (x - first) / (last - first);
      const line = (pairs) => pairs.map(([x, y], i) => `${i ? 'L' : 'M'}${X(x).toFixed(1)} ${Y(y).toFixed(1)}`).join('');
      const chart = svg('svg', { viewBox: `0 0 ${width} ${height}`, height, role: 'img', 'aria-label': label });
      for (const v of ticks(low, high, 4)) {
        chart.append(svg('line', { class: 'grid', x1: LEFT, x2: width - RIGHT, y1: Y(v), y2: Y(v) }));
        chart.append(svg('text', { x: LEFT - 7, y: Y(v) + 4, 'text-anchor': 'end' }, short(v, 3)));
      }
      for (const v of ticks(first, last, Math.max(2, Math.floor(width / 90)), 0.6))
        chart.append(svg('text', { x: Math.min(X(v), width - RIGHT - 6), y: height - 5, 'text-anchor': 'middle' }, short(v)));
      if (points.some(([, , e]) => e)) {
        const upper = points.map(([x, y, e]) => [x, y + 2 * e]);
        const lower = points.map(([x, y, e]) => [x, y - 2 * e]).reverse();
        chart.append(svg('path', { class: 'band', d: `${line(upper)}${line(lower).replace('M', 'L')}Z` }));
      }
      for (const level of levels)
        chart.append(svg('line', { class: 'rule', x1: LEFT, x2: width - RIGHT, y1: Y(level), y2: Y(level) }));
      chart.append(svg('path', { class: isSmoothed ? 'raw' : 'curve', d: line(points) }));
      if (isSmoothed) chart.append(svg('path', { class: 'curve', d: line(points.map(([x, , , mean]) => [x, mean])) }));
      if (points.length < 30 && !isSmoothed)
        for (const [x, y] of points) chart.append(svg('circle', { class: 'dot', cx: X(x), cy: Y(y), r: 2.8 }));
      // From the top down, each name above its line, or below it where a name stands there.
      let taken = TOP - 10;
      for (const [name, level] of rules) {
        const y = Y(level) - 6 >= taken + 14 ? Y(level) - 6 : Math.max(Y(level), taken) + 14;
        taken = y;
        chart.append(svg('text', { class: 'rule-name', x: width - RIGHT, y, 'text-anchor': 'end' },
          `${name} ${short(level)}`));
      }
      const cursor = svg('line', { class: 'cursor', y1: TOP, y2: height - BOTTOM });
      const here = svg('circle', { class: 'here', r: 4 });
      marks = [cursor, here];
      for (const mark of marks) mark.style.display = 'none';
      chart.append(...marks);
      plot.replaceChildren(chart);
      marks.put = (i) => {
        const [x, y, , mean] = points[i];
        cursor.setAttribute('x1', X(x));
        cursor.setAttribute('x2', X(x));
        here.setAttribute('cx', X(x));
        here.setAttribute('cy', Y(isSmoothed ? mean : y));
        for (const mark of marks) mark.style.display = '';
      };
    }
    const nearest = (step) => {
      let low = 0, high = points.length - 1;
      while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (points[middle][0] < step) low = middle; else high = middle;
      }
      return step - points[low][0] < points[high][0] - step ? low : high;
    };
    function tell(i) {
      const [x, y, e, mean] = points[i];
      readout.replaceChildren(`step ${whole(x)}  `, make('b', {}, short(y)),
        ...(e ? [` ± ${short(e, 2)}`] : []), ...(isSmoothed ? [`, smoothed ${short(mean)}`] : []));
    }
    const chart = {
      box, plot, points, nearest, draw,
      read(i) { marks.put(i); tell(i); },
      rest() { for (const mark of marks) mark.style.display = 'none'; tell(points.length - 1); },
      step: (event) => {
        const x = event.clientX - plot.getBoundingClientRect().left;
        return first + (x - LEFT) / (X(last) - LEFT) * (last - first);
      },
    };
    return chart;
  });

  // One step is read in all charts.
  const readAll = (step) => { for (const chart of charts) chart.read(chart.nearest(step)); };
  const restAll = () => { for (const chart of charts) chart.rest(); };
  for (const chart of charts) {
    place.append(chart.box);
    let at = chart.points.length - 1;
    chart.plot.addEventListener('pointermove', (event) => readAll(chart.step(event)));
    chart.plot.addEventListener('pointerdown', (event) => readAll(chart.step(event)));
    chart.plot.addEventListener('pointerleave', restAll);
    chart.plot.addEventListener('blur', restAll);
    chart.plot.addEventListener('keydown', (event) => {
      const end = chart.points.length - 1, stride = event.shiftKey ? Math.ceil(end / 20) : 1;
      const moves = { ArrowLeft: at - stride, ArrowRight: at + stride, Home: 0, End: end };
      if (event.key === 'Escape') restAll();
      if (!(event.key in moves)) return;
      event.preventDefault();
      at = Math.min(Math.max(moves[event.key], 0), end);
      readAll(chart.points[at][0]);
    });
  }
  const redraw = () => { for (const chart of charts) { chart.draw(); chart.rest(); } };
  let width = 0;
  new ResizeObserver(() => {
    if (place.clientWidth !== width) { width = place.clientWidth; redraw(); }
  }).observe(place);
  redraw();
})();
