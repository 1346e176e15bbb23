element.addEventListener('click', (event) => {
  const word = event.target.closest('[data-word]'), text = event.target.closest('[data-example]');
  if (word) trigger('click', {word: +word.dataset.word});
  if (text) trigger('select', {example: text.dataset.example});
});
element.addEventListener('change', (event) => {
  const row = event.target.closest('[data-kind]');
  if (row) trigger('apply', {...row.dataset, decision: event.target.value});
});
