// Talking to the server: what is decided is sent in turn, by the pair's name, until it is saved.

let waiting = 0, sent = 0, chain = Promise.resolve();
const newest = new Map();

async function ask(name, argument) {
  const answer = await server[name](argument);
  if (!answer || typeof answer !== "object") throw new Error("no answer");
  if (answer.error) throw Object.assign(new Error(answer.error), {refused: true});
  return answer;
}

// What went wrong with saving stays until it is mended; a note until the next key.
function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

function note(text) {
  $("note").textContent = text;
  $("note").hidden = !text;
}

function sayWaiting() {
  const text = waiting ? `saving ${waiting} …` : "all saved";
  $("saved").textContent = text;
  $("saved").className = waiting ? "rv-warn" : "rv-good";
}

// Ask again until the server answers; what it refuses is taken back.
async function insist(name, argument, before) {
  for (;;) {
    try {
      const answer = await ask(name, argument);
      trouble(answer.warning || "");
      return answer;
    } catch (error) {
      if (error.refused) {
        take(argument.key, before);
        trouble("");
        note(error.message);
        return null;
      }
      trouble("Not saved: anodiff review does not answer. Leave this page open and start it again on the same port.");
      await new Promise((done) => setTimeout(done, RETRY_MS));
    }
  }
}

function save(name, argument, before) {
  const number = sent += 1;
  newest.set(argument.key, number);
  waiting += 1;
  sayWaiting();
  chain = chain.then(async () => {
    const answer = await insist(name, argument, before);
    if (answer && newest.get(argument.key) === number) take(argument.key, answer.record);
    waiting -= 1;
    sayWaiting();
    return answer;
  });
  return chain;
}

function take(key, record) {
  const repaint = (records[key]?.mask || null) !== (record?.mask || null);
  records[key] = record;
  if (repaint) thumbs.delete(key);
  mark(key);
  if (here() && here().key === key) render();
  sayCounts();
}
