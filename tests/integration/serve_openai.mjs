// serve_openai.mjs: the official client against a server of the recall model; run by serve_openai.sh, which
// says where the server is. Every line that it prints is something that held.
import assert from "node:assert/strict";
import OpenAI from "openai";

const {URL: url, KEY: apiKey, SERVER: server} = process.env;
const client = new OpenAI({baseURL: `${url}/v1`, apiKey, maxRetries: 0});
const model = "recall", prompt = "The key of Levet is 503118. The key of Levet is";
const messages = [{role: "system", content: "Be brief."}, {role: "user", content: "Hello"}];
const greedy = {model, temperature: 0}, drawn = {model, seed: 7, max_tokens: 8, ignore_eos: true};
const endless = {model, prompt: "x", max_tokens: 900000, seed: 7, ignore_eos: true, stream: true};
const held = (what) => console.log(`ok: ${what}`);

async function fails(type, promise, fields) {
    const error = await promise.then(() => assert.fail(`no ${type.name}`), (e) => e);
    assert.ok(error instanceof type, `${error.constructor.name} and not ${type.name}: ${error.message}`);
    for (const [name, value] of Object.entries(fields))
        assert.equal(error[name], value, `${type.name}.${name} is ${error[name]}`);
    assert.match(error.message, /\w+ \w+/, "an error without a sentence");
    held(`${type.name} ${fields.code ?? ""}: ${error.message}`);
    return error;
}

// Until the server is at work on nothing. It looks for clients that are gone ten times a second.
async function idle() {
    for (let i = 0; i < 1000; i++) {
        const {active, waiting} = await (await fetch(`${url}/health`)).json();
        if (active === 0 && waiting === 0)
            return;
        await new Promise((wake) => setTimeout(wake, 50));
    }
    assert.fail("the server still works for a client that is gone");
}

const models = [];
for await (const m of client.models.list())
    models.push(m.id);
assert.deepEqual(models, [model]);
assert.equal((await client.models.retrieve(model)).id, model);

const whole = await client.completions.create({...greedy, prompt});
assert.equal(whole.choices[0].text, " 503118.");
assert.equal(whole.choices[0].finish_reason, "stop");
let text = "", usage;
for await (const chunk of await client.completions.create(
    {...greedy, prompt, stream: true, stream_options: {include_usage: true}})) {
    text += chunk.choices[0]?.text ?? "";
    usage = chunk.usage ?? usage;
}
assert.equal(text, whole.choices[0].text);
assert.deepEqual(usage, whole.usage);
held(`completions, streamed and not: ${text}`);

const chat = await client.chat.completions.create({...drawn, messages, logprobs: true, top_logprobs: 2});
assert.equal(chat.choices[0].logprobs.content[0].top_logprobs.length, 2);
const stream = client.chat.completions.stream({...drawn, messages});
text = "";
stream.on("content", (delta) => (text += delta));
const last = await stream.finalChatCompletion();
assert.ok(text.length);
assert.equal(text, chat.choices[0].message.content);
assert.equal(last.choices[0].message.content, text);
assert.equal(last.choices[0].finish_reason, chat.choices[0].finish_reason);
held(`chat, streamed and not: ${JSON.stringify(text)}`);

const {AuthenticationError, BadRequestError, NotFoundError, RateLimitError, APIError} = OpenAI;
await fails(AuthenticationError, client.withOptions({apiKey: "sk-nobody"}).models.list(),
    {status: 401, code: "invalid_api_key"});
await fails(NotFoundError, client.chat.completions.create({...greedy, messages, model: "gpt-4"}),
    {status: 404, code: "model_not_found", param: "model"});
await fails(NotFoundError, client.embeddings.create({model, input: "x"}), {status: 404, code: "unknown_path"});
await fails(BadRequestError, client.completions.create({model, prompt, temperature: 9}),
    {status: 400, param: "temperature", type: "invalid_request_error"});
await fails(BadRequestError, client.chat.completions.create({model, messages, n: 2}), {status: 400, param: "n"});

// The server works on one request and lets none wait.
const busy = await client.completions.create(endless);
for await (const chunk of busy) {
    assert.ok(chunk.choices.length);
    const full = await fails(RateLimitError, client.completions.create({model, prompt}),
        {status: 429, code: "queue_full"});
    assert.ok(Number(full.headers.get("retry-after")) >= 1, "no Retry-After");
    break; // which ends the request
}
await idle();
held("a stream that is left ends the work");

const abort = new AbortController();
const cancelled = await client.completions.create(endless, {signal: abort.signal});
let chunks = 0;
for await (const chunk of cancelled)
    if (chunk.choices.length && ++chunks === 3)
        abort.abort();
assert.equal(cancelled.controller.signal.aborted, true);
await idle();
const never = new AbortController();
setTimeout(() => never.abort(), 300);
await fails(OpenAI.APIUserAbortError,
    client.completions.create({...endless, stream: false}, {signal: never.signal}), {});
await idle();
held("AbortController ends a stream, and an answer that is waited for");

// The server is stopped under a stream: its last event is an error.
const cut = await client.completions.create(endless);
let stopped = false;
await fails(APIError, (async () => {
    for await (const chunk of cut) {
        assert.ok(chunk.choices.length);
        stopped = stopped || process.kill(Number(server), "SIGTERM");
    }
})(), {code: "shutting_down"});
