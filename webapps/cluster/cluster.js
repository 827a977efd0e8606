// Asks for the cluster once a second and shows what changed. Without it the page loads itself anew.
'use strict';
(() => {
  const live = document.getElementById('live');
  const list = live.querySelector('.nodes');
  const lost = live.querySelector('.lost');
  const events = live.querySelector('.events');
  const nothing = live.querySelector('.nothing');
  const MOST_EVENTS = 8;
  const EVERY_MS = 1000;
  const PATIENCE_MS = 5000;
  let answered = document.querySelector('.owner').textContent;

  live.querySelector('.scripted').hidden = false;

  const put = (element, text) => {
    if (element.textContent !== String(text)) element.textContent = text;
  };

  const tell = (route, hue, text) => {
    const entry = document.createElement('li');
    const time = document.createElement('time');
    const name = document.createElement('b');
    time.textContent = new Date().toLocaleTimeString(document.documentElement.lang);
    name.textContent = route;
    name.style.setProperty('--hue', hue);
    entry.append(time, ' ', name, ' ', text);
    events.prepend(entry);
    nothing.hidden = true;
    while (events.children.length > MOST_EVENTS) events.lastChild.remove();
  };

  const card = (node) => {
    const known = [...list.children].find((item) => item.dataset.route === node.route);
    if (known) return known;
    const item = list.firstElementChild.cloneNode(true);
    item.dataset.route = node.route;
    item.dataset.life = node.life;
    item.style.setProperty('--hue', node.hue);
    put(item.querySelector('.route'), node.route);
    const after = [...list.children].find((other) => other.dataset.route > node.route);
    list.insertBefore(item, after || null);
    item.className = '';
    return item;
  };

  const show = (node) => {
    const item = card(node);
    const was = item.classList[0];
    item.className = node.state + (node.me ? ' me' : '');
    ['label', 'note', 'lag'].forEach((part) => put(item.querySelector(`[data-is=${part}]`), node[part]));
    // A fast restart lies between two looks: only its new life shows it.
    if (node.life && item.dataset.life && node.life !== item.dataset.life) {
      tell(node.route, node.hue, live.dataset.restarted);
    }
    if (node.life) item.dataset.life = node.life;
    if (was !== node.state) tell(node.route, node.hue, node.label);
  };

  const render = (view) => {
    view.nodes.forEach(show);
    const routes = view.nodes.map((node) => node.route);
    [...list.children].filter((item) => !routes.includes(item.dataset.route)).forEach((item) => item.remove());
    ['node', 'copies', 'writes', 'owned', 'held', 'alone'].forEach((part) => {
      put(live.querySelector(`[data-is=${part}]`), view[part]);
    });
    document.documentElement.style.setProperty('--hue', view.hue);
    document.title = document.title.replace(/^[^·]*/, `${view.node} `);
    if (view.node !== answered) tell(view.node, view.hue, live.dataset.answers);
    answered = view.node;
  };

  const ask = async () => {
    try {
      const answer = await fetch(live.dataset.source, { cache: 'no-store', signal: AbortSignal.timeout(PATIENCE_MS) });
      if (!answer.ok) throw new Error(answer.status);
      render(await answer.json());
      lost.hidden = true;
    } catch {
      lost.hidden = false;
    }
    setTimeout(ask, EVERY_MS);
  };
  ask();
})();
