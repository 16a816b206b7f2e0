// Plays denoising traces: the data are a first frame and changes to it.
(() => {
  const traces = JSON.parse(document.getElementById('traces').textContent);
  const player = document.getElementById('player');
  if (!traces.length) { player.hidden = true; return; }

  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };

  const picker = make('select', { id: 'sample', 'aria-label': 'Sample' });
  traces.forEach((trace, i) =>
    picker.append(make('option', { value: i }, trace.title || `sample ${i + 1}`)));
  const play = make('button', { id: 'play', type: 'button' }, 'Play');
  const slider = make('input', { id: 'step', type: 'range', min: 0, 'aria-label': 'Step' });
  const speed = make('select', { id: 'speed', 'aria-label': 'Speed' });
  for (const [name, wait] of [['½×', 320], ['1×', 160], ['2×', 80], ['4×', 40]])
    speed.append(make('option', { value: wait }, name));
  speed.value = 160;
  const colour = make('select', { id: 'colour', 'aria-label': 'Colour' });
  for (const [value, name] of [['step', 'step'], ['confidence', 'confidence'], ['none', 'nothing']])
    colour.append(make('option', { value }, name));
  const copy = make('button', { id: 'copy', type: 'button' }, 'Copy text');
  const tokens = make('div', { id: 'tokens', class: 'tokens card', 'aria-label': 'Text' });
  const status = make('div', { id: 'status', class: 'status', role: 'status' });
  const ramp = make('span', { class: 'ramp' });
  const legend = make('div', { class: 'legend' }, make('span', {}, ''), ramp, make('span', {}, ''));
  const settings = make('div', { class: 'settings' });
  const tip = make('div', { class: 'tip' });
  if (traces.length < 2) picker.hidden = true;
  player.append(
    make('div', { class: 'controls' }, picker, play, slider, speed,
      make('label', {}, 'colour by', colour), copy),
    status, tokens, legend, settings, tip);

  let trace, frames, born, spans, timer = null;

  // Every frame in full: cells [piece, masked, confidence]; born[frame][place]
  // is the step at which the token there was last drawn.
  function unpack() {
    let now = trace.first, since = now.map(() => 0);
    frames = [now];
    born = [since];
    trace.changes.forEach((change, i) => {
      now = now.slice();
      since = since.slice();
      for (const [place, ...cell] of change) { now[place] = cell; since[place] = i + 1; }
      frames.push(now);
      born.push(since);
    });
  }

  const visible = (text) => {
    const out = [];
    for (const letter of text) {
      if (letter === '\n') out.push(make('span', { class: 'space' }, '↵'), '\n');
      else if (letter === '\t') out.push(make('span', { class: 'space' }, '→'), '\t');
      else if (typeof out.at(-1) === 'string' && out.at(-1) !== '\n') out.push(out.pop() + letter);
      else out.push(letter);
    }
    return out;
  };

  function tint(place, step) {
    const [, masked, sure] = frames[step][place];
    if (masked || trace.given[place] || colour.value === 'none') return '';
    const share = colour.value === 'step'
      ? 100 * born[step][place] / Math.max(frames.length - 1, 1) : sure;
    const [from, to] = colour.value === 'step' ? ['--a', '--b'] : ['--bad', '--good'];
    return `color-mix(in srgb, color-mix(in oklab, var(${to}) ${share}%, var(${from})) var(--tint), transparent)`;
  }

  function draw() {
    const step = Number(slider.value);
    let left = 0, changed = 0;
    frames[step].forEach(([piece, masked], place) => {
      const span = spans[place], text = trace.pieces[piece];
      const fresh = step > 0 && born[step][place] === step && !masked;
      span.className = 'token' + (masked ? ' masked' : '') +
        (trace.given[place] ? ' given' : '') + (fresh ? ' fresh' : '');
      span.replaceChildren(...(masked ? ['···'] : visible(text)));
      span.style.backgroundColor = tint(place, step);
      left += masked;
      changed += fresh;
    });
    status.textContent = `step ${step} of ${frames.length - 1} · t = ${trace.times[step]}` +
      ` · ${left} masked · ${changed} drawn in this step`;
    slider.setAttribute('aria-valuetext', status.textContent);
    const names = { step: ['first', 'last step'], confidence: ['unsure', 'sure'], none: ['', ''] };
    const ends = colour.value === 'step' ? ['--a', '--b'] : ['--bad', '--good'];
    legend.hidden = colour.value === 'none';
    [legend.firstChild.textContent, legend.lastChild.textContent] = names[colour.value];
    ramp.style.background = `linear-gradient(in oklab to right, var(${ends[0]}), var(${ends[1]}))`;
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = 'Play';
  }

  function start() {
    if (Number(slider.value) >= frames.length - 1) slider.value = 0;
    play.textContent = 'Pause';
    timer = setInterval(() => {
      slider.value = Number(slider.value) + 1;
      draw();
      if (Number(slider.value) >= frames.length - 1) stop();
    }, Number(speed.value));
    draw();
  }

  const toggle = () => (timer === null ? start() : stop());
  const move = (by) => { stop(); slider.value = Number(slider.value) + by; draw(); };

  function open(index) {
    stop();
    trace = traces[index];
    unpack();
    spans = trace.first.map((_, place) => make('span', { class: 'token', 'data-place': place }));
    tokens.replaceChildren(...spans);
    slider.max = frames.length - 1;
    slider.value = frames.length - 1;
    settings.replaceChildren(...Object.entries(trace.settings).map(
      ([name, value]) => make('span', {}, `${name} ${value}`)));
    draw();
  }

  picker.addEventListener('change', () => open(Number(picker.value)));
  play.addEventListener('click', toggle);
  slider.addEventListener('input', () => { stop(); draw(); });
  speed.addEventListener('change', () => { if (timer !== null) { stop(); start(); } });
  colour.addEventListener('change', draw);
  copy.addEventListener('click', async () => {
    const text = frames.at(-1).map(([piece, masked]) => (masked ? '' : trace.pieces[piece])).join('');
    try { await navigator.clipboard.writeText(text); copy.textContent = 'Copied'; }
    catch { getSelection().selectAllChildren(tokens); copy.textContent = 'Selected'; }
    setTimeout(() => { copy.textContent = 'Copy text'; }, 1200);
  });
  document.addEventListener('keydown', (event) => {
    if (event.target.closest('select, button, input') && event.key === ' ') return;
    if (event.target === slider) return;
    if (event.key === ' ') { event.preventDefault(); toggle(); }
    if (event.key === 'ArrowRight') move(1);
    if (event.key === 'ArrowLeft') move(-1);
  });
  tokens.addEventListener('mousemove', (event) => {
    const span = event.target.closest('.token');
    if (!span) { tip.style.display = 'none'; return; }
    const place = Number(span.dataset.place), step = Number(slider.value);
    const [piece, masked, sure] = frames[step][place];
    tip.textContent = trace.given[place] ? `place ${place}, given`
      : masked ? `place ${place}, masked`
      : `place ${place}, ${JSON.stringify(trace.pieces[piece])}\nstep ${born[step][place]}, confidence ${sure}%`;
    tip.style.display = 'block';
    tip.style.left = `${Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${event.clientY + 16}px`;
  });
  tokens.addEventListener('mouseleave', () => { tip.style.display = 'none'; });
  open(0);
})();
