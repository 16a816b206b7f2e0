// Light or dark: the system's choice until the button is pressed.
(() => {
  const root = document.documentElement;
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const isDark = () =>
    root.dataset.theme ? root.dataset.theme === 'dark' : dark.matches;
  // A file opened from disk, or a notebook's frame, may have no storage.
  const stored = (action) => { try { return action(localStorage); } catch { return null; } };
  const recall = () => {
    const chosen = stored((storage) => storage.getItem('textdiffusion-theme'));
    if (chosen === 'dark' || chosen === 'light') root.dataset.theme = chosen;
  };
  recall();
  addEventListener('DOMContentLoaded', () => {
    const button = document.getElementById('theme');
    const tell = () => button.setAttribute('aria-pressed', String(isDark()));
    button.addEventListener('click', () => {
      root.dataset.theme = isDark() ? 'light' : 'dark';
      stored((storage) => storage.setItem('textdiffusion-theme', root.dataset.theme));
      tell();
    });
    dark.addEventListener('change', tell);
    // What another page chose; storage may also be late for a page that loads.
    addEventListener('storage', () => { recall(); tell(); });
    tell();
  });
})();
