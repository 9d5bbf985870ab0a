-- Takes units for several requests of one process.
-- ARGV: process, token, now, lease, number of tokens received, those tokens, then account and unit count of each request.
-- Returns false when the pool is not built, else for each request how many units are missing, or the runs it gets. The same
-- token gets the same answer.
if not is_built() then return false end
local process, token, now, lease = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local at = 5
local count = tonumber(ARGV[at])
local rebuilding = is_rebuilding(now)
for i = at + 1, at + count do
  -- What was taken while the pool is being rebuilt must not come back with the reading.
  if rebuilding then
    local answer = redis.call('HGET', given, ARGV[i])
    if answer then redis.call('HSET', received, ARGV[i], answer) end
  end
  redis.call('HDEL', given, ARGV[i])
  redis.call('ZREM', due, ARGV[i])
end
at = at + count + 1
local earlier = redis.call('HGET', given, token)
if earlier then return cmsgpack.unpack(earlier) end

local state = read_state()

for _, overdue in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', string.format('%d', now), 'LIMIT', 0, 10)) do
  local answer = redis.call('HGET', given, overdue)
  redis.call('HDEL', given, overdue)
  redis.call('ZREM', due, overdue)
  if answer then
    for _, request in ipairs(cmsgpack.unpack(answer)) do
      if type(request) == 'table' then
        for _, run in ipairs(request) do
          redis.call('LPUSH', line, run)
          state.mine = state.mine + units_of(run)
          state.taken = state.taken - units_of(run)
        end
      end
    end
  end
end

local run = redis.call('HGET', opened, process)
local function next_run()
  local found = redis.call('LPOP', line)
  if found then return found end
  for _, other in ipairs(redis.call('HKEYS', opened)) do
    if other ~= process then
      found = redis.call('HGET', opened, other)
      redis.call('HDEL', opened, other)
      return found
    end
  end
  return false
end
local function pull(units)
  local runs = {}
  while units > 0 do
    if not run then run = next_run() end
    if not run then error('the pool holds fewer units than it says') end
    if not is_run(run) then error('an entry of the line is no run of units') end
    local part = math.min(units, units_of(run))
    local cut = ID_BYTES + part * UNIT_BYTES
    runs[#runs + 1] = string.sub(run, 1, cut)
    if cut == #run then run = false else run = string.sub(run, 1, ID_BYTES) .. string.sub(run, cut + 1) end
    units = units - part
  end
  return runs
end

local answer, gave = {}, false
while at < #ARGV do
  local account, units = ARGV[at], tonumber(ARGV[at + 1])
  at = at + 2
  if account ~= NOBODY and account ~= BORROWER then
    -- The first time it asks, it gets its share.
    if redis.call('ZADD', asked, string.format('%d', now), account) == 1 then share_out(state, now) end
  end
  local limit = allowed(state, account)
  if units > limit then
    -- Shares of those who asked no more may be what is lacking.
    share_out(state, now)
    limit = allowed(state, account)
  end
  if units > limit then
    state.refused = state.refused + 1
    answer[#answer + 1] = units - limit
  else
    local runs = pull(units)
    if account ~= BORROWER then
      local rest = math.max(0, units - (state.mine - state.reserved - state.emergency))
      local own = math.min(rest, own_share(account))
      if own > 0 then
        redis.call('HINCRBY', reserved, account, -own)
        state.reserved = state.reserved - own
      end
      state.emergency = state.emergency - (rest - own)
    end
    state.mine = state.mine - units
    state.taken = state.taken + units
    if state.mine < state.reserved + state.emergency then
      redis.call('DEL', reserved)
      state.reserved = 0
      state.emergency = 0
      share_out(state, now)
    end
    answer[#answer + 1] = runs
    gave = true
  end
end
if run then redis.call('HSET', opened, process, run) else redis.call('HDEL', opened, process) end
if gave then
  redis.call('HSET', given, token, cmsgpack.pack(answer))
  redis.call('ZADD', due, string.format('%d', now + lease), token)
end
write_state(state)
return answer
