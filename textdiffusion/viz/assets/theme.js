// Light or dark: the system's choice until the button is pressed.
(() => {
  const root = document.documentElement;
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const set = (name) => { root.dataset.theme = name; };
  set(dark.matches ? 'dark' : 'light');
  dark.addEventListener('change', (event) => set(event.matches ? 'dark' : 'light'));
  document.getElementById('theme').addEventListener('click', () =>
    set(root.dataset.theme === 'dark' ? 'light' : 'dark'));
})();
