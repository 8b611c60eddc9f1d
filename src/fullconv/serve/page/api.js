// The client of the service.

const KEY = "fullconv-token";

/** An error response. */
export class ApiError extends Error {
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

/** Return the models and limits of the service. */
export async function models() {
  let response;
  try {
    response = await fetch("/v1/models", { headers: headers() });
  } catch {
    throw unreachable();
  }
  if (!response.ok) throw toError(response.status, await response.text(), response.headers.get("Retry-After"));
  return response.json();
}

/** Predict an image; reports the share that was sent (0 to 1). */
export function predict(file, model, head, parts, onSent) {
  const query = [...(head ? [`head=${encodeURIComponent(head)}`] : []), ...parts.map((part) => `include=${part}`)].join("&");
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
        reject(toError(request.status, request.responseText, request.getResponseHeader("Retry-After")));
        return;
      }
      try {
        resolve(JSON.parse(request.responseText));
      } catch {
        reject(new ApiError(200, "broken", "The response is incomplete. Try again."));
      }
    };
    request.send(file);
  });
}

function unreachable() {
  return new ApiError(0, "unreachable", "The service cannot be reached. Is it still running?");
}

function toError(status, text, retryAfter) {
  let code = `http-${status}`, message = `The service responded with ${status}.`;
  try {
    const { error } = JSON.parse(text);
    code = error.code;
    message = error.message.charAt(0).toUpperCase() + error.message.slice(1);
  } catch { /* no JSON */ }
  return new ApiError(status, code, message, retryAfter === null ? null : Number(retryAfter));
}
