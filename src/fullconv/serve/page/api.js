// Talks to the service.

const KEY = "fullconv-token";

/** Why a request was not answered with a result. */
export class Refused extends Error {
  constructor(status, code, message, retryAfter = null) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
};

const headers = () => (token.get() ? { Authorization: `Bearer ${token.get()}` } : {});

/** Return what the service serves. */
export async function models() {
  let answer;
  try {
    answer = await fetch("/v1/models", { headers: headers() });
  } catch {
    throw unreachable();
  }
  if (!answer.ok) throw refused(answer.status, await answer.text(), answer.headers.get("Retry-After"));
  return answer.json();
}

/** Predict a picture; tells how much of it is sent (0 to 1). */
export function predict(file, model, parts, onSent) {
  const query = parts.map((part) => `include=${part}`).join("&");
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/v1/predict/${encodeURIComponent(model)}?${query}`);
    request.setRequestHeader("Accept", "application/json");
    request.setRequestHeader("Content-Type", "application/octet-stream");
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => event.lengthComputable && onSent(event.loaded / event.total);
    request.upload.onload = () => onSent(1);
    request.onerror = () => reject(unreachable());
    request.onload = () => {
      if (request.status !== 200) {
        reject(refused(request.status, request.responseText, request.getResponseHeader("Retry-After")));
        return;
      }
      try {
        resolve(JSON.parse(request.responseText));
      } catch {
        reject(new Refused(200, "broken", "The answer broke off. Try again."));
      }
    };
    request.send(file);
  });
}

function unreachable() {
  return new Refused(0, "unreachable", "The service cannot be reached. Is it still running?");
}

function refused(status, text, retryAfter) {
  let code = `http-${status}`, message = `The service answered ${status}.`;
  try {
    const { error } = JSON.parse(text);
    code = error.code;
    message = error.message.charAt(0).toUpperCase() + error.message.slice(1);
  } catch { /* no words: the status has to do */ }
  return new Refused(status, code, message, retryAfter === null ? null : Number(retryAfter));
}
