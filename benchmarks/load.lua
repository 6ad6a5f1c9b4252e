-- What wrk sends: bodies from a file, one a line, in turn. With a second argument, each connection waits before each
-- request, that many milliseconds on average: by chance, or all would ask at once. At the end one JSON line.
--   wrk … -s load.lua URL -- BODIES [MILLISECONDS]
local requests, number = {}, 0

function init(args)
  for line in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, line)
  end
  number = math.random(#requests)
  local pause = tonumber(args[2])
  if pause then
    delay = function() return math.random(0, 2 * pause) end
  end
end

function request()
  number = number % #requests + 1
  return requests[number]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %.6f, "not_2xx": %d, "lost": %d, "p50": %.3f, "p99": %.3f}\n',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
