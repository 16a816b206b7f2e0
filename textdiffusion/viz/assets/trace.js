// Plays denoising traces. The data are a first frame and, for each later one,
// what changes in it; a cell is a code, 2 * piece + masked, and a confidence
// in thousandths, -1 where there is none.
(() => {
  const { traces, ramps } = JSON.parse(document.getElementById('traces').textContent);
  const player = document.getElementById('player');
  if (!traces.length) { player.hidden = true; return; }

  // Text only ever enters the page through nodes of text and attributes.
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const draw = (tag, attributes, ...children) => {
    const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const icon = (path) => draw('svg', { viewBox: '0 0 16 16', 'aria-hidden': 'true' },
    draw('path', { d: path, fill: 'currentColor' }));
  const ICONS = {
    play: 'M4.5 2.2v11.6L13.5 8z', pause: 'M4 2.5h3v11H4zM9 2.5h3v11H9z',
    back: 'M11 2.5v11L4 8z', next: 'M5 2.5v11L12 8z',
    first: 'M3 2.5h2v11H3zM13 2.5v11L6 8z', last: 'M11 2.5h2v11h-2zM3 2.5v11L10 8z',
  };
  const button = (id, label, shape) => {
    const node = make('button', { id, type: 'button', class: 'quiet', 'aria-label': label, title: label });
    node.append(icon(ICONS[shape]));
    return node;
  };

  // The fixed parts.
  const picker = make('select', { id: 'sample', 'aria-label': 'Sample' });
  traces.forEach((trace, i) =>
    picker.append(make('option', { value: i }, trace.title || `sample ${i + 1}`)));
  picker.hidden = traces.length < 2;
  const colours = make('fieldset', { id: 'colour', class: 'segments' }, make('legend', {}, 'Colour'));
  for (const mode of ['step', 'confidence', 'none'])
    colours.append(make('label', {},
      make('input', { type: 'radio', name: 'colour', value: mode }), make('span', {}, mode)));
  colours.querySelector('input').checked = true;
  const copy = make('button', { id: 'copy', type: 'button' }, 'Copy text');
  const tokens = make('div', {
    id: 'tokens', class: 'tokens card', tabindex: 0, role: 'group',
    'aria-label': 'Text; up and down go through its tokens',
  });
  const legend = make('div', { class: 'legend' });
  const bars = draw('svg', { preserveAspectRatio: 'none', 'aria-hidden': 'true' });
  const slider = make('input', { id: 'step', type: 'range', min: 0, 'aria-label': 'Step' });
  const play = button('play', 'Play', 'play');
  const buttons = [['first', 'First step'], ['back', 'Step back']].map(([id, label]) => button(id, label, id));
  buttons.push(play, ...[['next', 'Step on'], ['last', 'Last step']].map(([id, label]) => button(id, label, id)));
  const speed = make('select', { id: 'speed', 'aria-label': 'Speed' });
  for (const [value, name] of [[0.25, '¼×'], [0.5, '½×'], [1, '1×'], [2, '2×'], [4, '4×']])
    speed.append(make('option', { value }, name));
  speed.value = 1;
  const status = make('div', { id: 'status', class: 'status', role: 'status' });
  const settings = make('div', { class: 'settings' });
  const tip = make('div', { id: 'tip', class: 'tip', role: 'tooltip' });
  tip.hidden = true;
  player.replaceChildren(
    make('div', { class: 'top' }, picker, make('span', { class: 'grow' }), colours, copy),
    tokens, legend,
    make('div', { class: 'deck' },
      make('div', { class: 'timeline' }, bars, slider),
      make('div', { class: 'controls' },
        make('div', { class: 'transport' }, ...buttons), speed, make('span', { class: 'grow' }), status)),
    settings, tip);

  let trace, size, last, code, sure, born, drawn, spans, shown, chosen = -1;
  let curtain, timer = 0;
  const at = (step, place) => step * size + place;
  const now = () => Number(slider.value);
  const mode = () => colours.querySelector(':checked').value;

  // Every frame in full. born: the frame in which the token there came to be.
  function unpack() {
    size = trace.given.length;
    last = trace.changes.length;
    code = new Int32Array(size * (last + 1));
    sure = new Int16Array(code.length);
    born = new Int32Array(code.length);
    drawn = new Int32Array(last + 1);
    for (let i = 0; i < size; i++) [code[i], sure[i]] = trace.first.slice(2 * i, 2 * i + 2);
    trace.changes.forEach((change, k) => {
      const step = k + 1, from = k * size;
      for (const all of [code, sure, born]) all.copyWithin(from + size, from, from + size);
      for (let j = 0; j < change.length; j += 3) {
        const here = at(step, change[j]);
        if (code[here] !== change[j + 1]) {
          born[here] = step;
          if (!(change[j + 1] & 1)) drawn[step]++;
        }
        [code[here], sure[here]] = [change[j + 1], change[j + 2]];
      }
    });
  }

  const isMasked = (step, place) => code[at(step, place)] & 1;
  const piece = (step, place) => trace.pieces[code[at(step, place)] >> 1];
  const isSpecial = (text) => /^(<\/?[a-z]+>|\[[A-Z]+\])$/.test(text) && text.length > 2;

  // Whitespace shows as signs that are no part of the text, so that what is
  // selected and copied stays true. What would be invisible, or would reorder
  // the line, shows by its number.
  const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/;
  function visible(text) {
    const out = [];
    let plain = '';
    const put = (...nodes) => { if (plain) out.push(plain); plain = ''; out.push(...nodes); };
    for (const letter of text) {
      if (letter === ' ') put(make('span', { class: 'sp' }, ' '));
      else if (letter === '\n') put(make('span', { class: 'nl' }), '\n');
      else if (letter === '\t') put(make('span', { class: 'tab' }, '\t'));
      else if (HIDDEN.test(letter)) {
        const number = letter.codePointAt(0);
        const sign = number < 32 ? String.fromCodePoint(0x2400 + number)
          : `⟨${number.toString(16).toUpperCase()}⟩`;
        put(make('span', { class: 'code', 'data-show': sign }));
      } else plain += letter;
    }
    put();
    return out;
  }
  // A mask takes the room, and breaks where its last token will, so that the
  // text does not jump; what it will say is not there to be read.
  const veil = (text) => text
    .replace(/\p{Nd}/gu, '0')
    .replace(/[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]/gu, '一')
    .replace(/\p{L}/gu, (letter) => (letter === '一' ? letter : 'x'));

  // A colour of a ramp at a share in [0, 1]. Confidences go by their root, as
  // most are small: the middle colour stands at a quarter.
  const channels = (stop) => [1, 3, 5].map((i) => parseInt(stop.slice(i, i + 2), 16));
  function ramp(name, share) {
    const bent = name === 'confidence' ? Math.sqrt(share) : share;
    const stops = ramps[name], x = Math.min(Math.max(bent, 0), 1) * (stops.length - 1);
    const i = Math.min(Math.floor(x), stops.length - 2);
    const [from, to] = [channels(stops[i]), channels(stops[i + 1])];
    return `rgb(${from.map((c, k) => Math.round(c + (to[k] - c) * (x - i))).join(' ')})`;
  }
  const share = (step) => (last > 1 ? (step - 1) / (last - 1) : 1);
  function tint(step, place) {
    const here = at(step, place);
    if (trace.given[place] || (code[here] & 1) || mode() === 'none') return '';
    if (mode() === 'confidence') return sure[here] < 0 ? '' : ramp('confidence', sure[here] / 1000);
    return born[here] ? ramp('step', share(born[here])) : '';
  }
  const percent = (x) => (x < 1 ? '< 0.1 %' : x >= 1000 ? '100 %' : `${(x / 10).toFixed(1)} %`);

  function render() {
    const step = now(), previous = Math.max(step - 1, 0);
    let left = 0, changed = 0, hidden = 0;
    for (let place = 0; place < size; place++) {
      const here = at(step, place), masked = isMasked(step, place);
      const fresh = step > 0 && born[here] === step && !masked;
      left += masked;
      changed += fresh && !isMasked(previous, place);
      hidden += masked && !isMasked(previous, place);
      const look = `${code[here]} ${fresh} ${tint(step, place)} ${place === chosen}`;
      if (shown[place] === look) continue;
      shown[place] = look;
      const span = spans[place], text = masked ? piece(last, place) : piece(step, place);
      span.className = ['token', masked && 'masked', trace.given[place] && 'given',
        fresh && 'fresh', place === chosen && 'chosen', isSpecial(text) && 'special',
        text === '<pad>' && 'pad',
        ...trace.ends[place]].filter(Boolean).join(' ');
      span.toggleAttribute('aria-hidden', false);
      if (masked) span.setAttribute('aria-hidden', 'true');
      span.style.setProperty('--tint', tint(step, place) || 'transparent');
      span.replaceChildren(...visible(masked ? veil(text) : text));
    }
    const facts = [['step', `${step} of ${last}`], ['t', trace.times[step].toFixed(3)],
      ['masked', left], ['drawn', drawn[step]]];
    if (changed) facts.push(['changed', changed]);
    if (hidden) facts.push(['masked again', hidden]);
    status.setAttribute('aria-live', timer ? 'off' : 'polite');
    status.replaceChildren(...facts.map(([name, value]) =>
      make('span', {}, `${name} `, make('b', {}, String(value)))));
    slider.setAttribute('aria-valuetext', `step ${step} of ${last}, ${left} masked, ${drawn[step]} drawn`);
    slider.style.setProperty('--done', `${last ? (100 * step) / last : 100}%`);
    curtain.setAttribute('x', step);
    curtain.setAttribute('width', Math.max(last - step, 0));
    if (!tip.hidden && chosen >= 0) describe(chosen);
  }

  function explain() {
    const parts = [];
    const scale = (from, to) => parts.push(make('span', {}, from, make('span', {
      class: 'ramp',
      style: `background: linear-gradient(to right, ${Array.from({ length: 17 }, (_, i) => ramp(mode(), i / 16)).join(', ')})`,
    }), to));
    if (mode() === 'step') scale('step 1', `step ${last}`);
    if (mode() === 'confidence') scale('confidence 0 %', '100 %');
    const key = (kind, text, sample = '') =>
      parts.push(make('span', {}, make('span', { class: `key ${kind}` }, sample), text));
    if (trace.given.includes(1)) { key('given', 'given', 'abc'); key('span', 'to fill in'); }
    if (code.some((cell) => cell & 1)) key('mask', 'masked');
    key('now', 'drawn in this step');
    legend.replaceChildren(...parts);
  }

  // Tokens drawn in each step, above the slider.
  function chart() {
    const most = Math.max(...drawn, 1);
    bars.setAttribute('viewBox', `0 0 ${Math.max(last, 1)} 1`);
    curtain = draw('rect', { class: 'curtain', y: 0, height: 1 });
    const nodes = [];
    drawn.forEach((count, step) => {
      if (!count) return;
      const height = Math.max(count / most, 0.06);
      nodes.push(draw('rect', { x: step - 0.9, width: 0.8, y: 1 - height, height, fill: ramp('step', share(step)) }));
    });
    bars.replaceChildren(...nodes, curtain);
  }

  function stop() {
    cancelAnimationFrame(timer);
    timer = 0;
    play.replaceChildren(icon(ICONS.play));
    play.setAttribute('aria-label', 'Play');
  }
  function start() {
    if (now() >= last) slider.value = 0;
    play.replaceChildren(icon(ICONS.pause));
    play.setAttribute('aria-label', 'Pause');
    let before = performance.now(), owed = 0;
    const tick = (time) => {
      // Some six seconds at 1x, but no step too quick or too slow to see.
      const wait = Math.min(Math.max(6000 / Math.max(last, 1), 40), 300) / Number(speed.value);
      owed += Math.min(Math.max(time - before, 0), 500) / wait;
      before = time;
      if (owed >= 1) {
        slider.value = now() + Math.floor(owed);
        owed %= 1;
        if (now() >= last) stop();
        render();
      }
      if (timer) timer = requestAnimationFrame(tick);
    };
    timer = requestAnimationFrame(tick);
    render();
  }
  const toggle = () => { if (timer) { stop(); render(); } else start(); };
  const go = (step) => { stop(); slider.value = step; render(); };

  function open(index) {
    stop();
    hide();
    trace = traces[index];
    // The first and last token of each span between given ones.
    trace.ends = trace.given.map((given, i, all) => given || !all.includes(1) ? [] : [
      ...(i === 0 || all[i - 1] ? ['first'] : []), ...(i === all.length - 1 || all[i + 1] ? ['last'] : [])]);
    unpack();
    chart();
    shown = new Array(size).fill('');
    spans = trace.given.map((_, place) => make('span', { class: 'token', 'data-place': place }));
    tokens.replaceChildren(...spans);
    slider.max = last;
    slider.value = last;
    settings.replaceChildren(
      ...trace.settings.map(([name, value]) => make('span', {}, `${name} `, make('b', {}, value))),
      make('span', { class: 'keys' }, make('kbd', {}, 'space'), ' plays, ',
        make('kbd', {}, '←'), ' ', make('kbd', {}, '→'), ' step'));
    explain();
    render();
  }

  // What there is to know of one token.
  function describe(place) {
    const step = now(), here = at(step, place), masked = isMasked(step, place);
    const lines = [];
    if (masked) lines.push(make('div', {}, 'masked'));
    else {
      lines.push(make('code', {}, JSON.stringify(piece(step, place))));
      if (trace.given[place]) lines.push(make('div', {}, 'given'));
      else lines.push(make('div', {}, born[here] ? `drawn in step ${born[here]}` : 'there from the start'));
      if (sure[here] >= 0) {
        const bar = make('i', {});
        bar.style.width = `${sure[here] / 10}%`;
        bar.style.background = ramp('confidence', sure[here] / 1000);
        lines.push(make('div', {}, `confidence ${percent(sure[here])}`), make('div', { class: 'bar' }, bar));
      }
    }
    const id = trace.ids && !masked ? `, id ${trace.ids[code[here] >> 1]}` : '';
    lines.push(make('div', { class: 'past' }, `place ${place}${id}`));
    // Tokens that stood here before, the latest first.
    for (let k = born[here], seen = 0; k > 0 && seen < 3; k = born[at(k - 1, place)])
      if (!isMasked(k - 1, place)) {
        seen++;
        const since = born[at(k - 1, place)];
        lines.push(make('div', { class: 'past' }, `before: ${JSON.stringify(piece(k - 1, place))}` +
          (since ? `, step ${since}` : ', from the start')));
      }
    tip.replaceChildren(...lines);
    tip.hidden = false;
    const area = spans[place].getClientRects()[0] ?? spans[place].getBoundingClientRect();
    const below = area.bottom + 8;
    tip.style.left = `${Math.max(8, Math.min(area.left, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${below + tip.offsetHeight < innerHeight ? below : Math.max(8, area.top - tip.offsetHeight - 8)}px`;
  }
  function choose(place) {
    if (place === chosen) return;
    chosen = place;
    if (place < 0) tip.hidden = true;
    render();
    if (place >= 0) describe(place);
  }
  const hide = () => { chosen = -1; tip.hidden = true; };

  picker.addEventListener('change', () => open(Number(picker.value)));
  play.addEventListener('click', toggle);
  const moves = { first: () => go(0), back: () => go(now() - 1), next: () => go(now() + 1), last: () => go(last) };
  for (const node of buttons) if (moves[node.id]) node.addEventListener('click', moves[node.id]);
  slider.addEventListener('input', () => { stop(); render(); });
  colours.addEventListener('change', () => { explain(); render(); });
  copy.addEventListener('click', async () => {
    const text = trace.text ?? spans.map((_, place) => (isMasked(last, place) ? '' : piece(last, place))).join('');
    let told = 'Copied';
    try { await navigator.clipboard.writeText(text); } catch {
      const area = make('textarea', { class: 'unseen' });
      area.value = text;
      document.body.append(area);
      area.select();
      if (!document.execCommand('copy')) told = 'Not allowed here';
      area.remove();
    }
    copy.textContent = told;
    setTimeout(() => { copy.textContent = 'Copy text'; }, 1400);
  });
  const placeOf = (event) => {
    const span = event.target.closest?.('.token');
    return span && tokens.contains(span) ? Number(span.dataset.place) : -1;
  };
  tokens.addEventListener('pointermove', (event) => { if (event.pointerType === 'mouse') choose(placeOf(event)); });
  tokens.addEventListener('pointerleave', (event) => { if (event.pointerType === 'mouse') choose(-1); });
  document.addEventListener('click', (event) => choose(placeOf(event)));
  addEventListener('scroll', () => choose(-1), { passive: true });

  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const mine = player.dataset.keys === 'page' ? !event.target.closest?.('#theme')
      : player.contains(event.target) || player.matches(':hover');
    if (!mine || event.target.closest?.('select, fieldset')) return;
    const keys = {
      ArrowRight: () => go(now() + 1), ArrowLeft: () => go(now() - 1),
      Home: () => go(0), End: () => go(last), Escape: () => choose(-1),
    };
    if (!event.target.closest?.('button')) keys[' '] = toggle;
    if (event.target === tokens) {
      keys.ArrowDown = () => choose(Math.min(chosen + 1, size - 1));
      keys.ArrowUp = () => choose(Math.max(chosen - 1, 0));
    }
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });

  open(0);

  // In a notebook the frame takes the height of the page.
  if (player.dataset.keys === 'page') {
    try {
      const frame = window.frameElement;
      if (frame) new ResizeObserver(() => {
        frame.style.height = `${Math.ceil(document.documentElement.getBoundingClientRect().height) + 2}px`;
      }).observe(document.body);
    } catch { /* another origin: the height that was asked for stays */ }
  }
})();
