-- The beginning of every script: one pool, the units of one peer KME.
--
-- A run is a text: the ID of a block (36 characters), then three bytes for each unit. The line is a list of runs. Each process
-- works off a run of its own, so that processes seldom meet at a block in the database; at the end of the line it takes over
-- the runs of others. Units that were given and not yet reported received are lent out: when that report does not come, because
-- the answer was lost or the process died, they go back into the line.
local line, opened, level, reserved, asked, given, due, received, policy, fresh, since, seen = unpack(KEYS)
local ID_BYTES, UNIT_BYTES = 36, 3
local REBUILD_PAUSE_MAX_MS = 60000
local RUN_BYTES_MAX = ID_BYTES + UNIT_BYTES * 65536

local function units_of(run)
  return (#run - ID_BYTES) / UNIT_BYTES
end

local function is_run(run)
  return #run > ID_BYTES and #run <= RUN_BYTES_MAX and (#run - ID_BYTES) % UNIT_BYTES == 0
end

-- Read once and written once in a script.
local FIELDS = { 'mine', 'theirs', 'emergency', 'reserved', 'offered', 'taken', 'refused' }
local function read_state()
  local values = redis.call('HMGET', level, unpack(FIELDS))
  local state = {}
  for i, field in ipairs(FIELDS) do
    local text = values[i] or '0'
    -- Somebody else may have written it. More may be given back than was taken since the pool was built, and nothing else is negative.
    local sign = field == 'taken' and '%-?' or ''
    if not string.match(text, '^' .. sign .. '%d%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?$') then error('a level is no number') end
    state[field] = tonumber(text)
  end
  return state
end

local function write_state(state)
  local pairs_of = {}
  for _, field in ipairs(FIELDS) do
    pairs_of[#pairs_of + 1] = field
    pairs_of[#pairs_of + 1] = string.format('%d', state[field])
  end
  redis.call('HSET', level, unpack(pairs_of))
end

-- policy: '#fair', '#emergency', '#active' and, for each account that is treated in its own way, 'floor weight emergency'.
local function share_of(account)
  local text = redis.call('HGET', policy, account)
  if not text then return 0, 1, false end
  local floor, weight, emergency = string.match(text, '^(%S+) (%S+) (%S+)$')
  return tonumber(floor), tonumber(weight), emergency == '1'
end

-- Shares the units out anew, as share-out.ts does.
local function share_out(state, now)
  local setting = redis.call('HMGET', policy, '#fair', '#emergency', '#active')
  local fair, emergency, active = tonumber(setting[1] or 0), tonumber(setting[2] or 0), tonumber(setting[3] or 0)
  redis.call('ZREMRANGEBYSCORE', asked, '-inf', '(' .. string.format('%d', now - active))
  local weight_of, targets, names, weights = {}, {}, {}, 0
  for _, account in ipairs(redis.call('ZRANGE', asked, 0, -1)) do
    local floor, weight = share_of(account)
    weight_of[account] = weight
    targets[account] = floor
    names[#names + 1] = account
    weights = weights + weight
  end
  for _, account in ipairs(names) do
    targets[account] = math.max(targets[account], math.floor(fair * weight_of[account] / weights))
  end
  local configured = redis.call('HGETALL', policy)
  for i = 1, #configured, 2 do
    local account = configured[i]
    if string.sub(account, 1, 1) ~= '#' and not targets[account] then
      local floor, weight = share_of(account)
      if floor > 0 then
        weight_of[account] = weight
        targets[account] = floor
        names[#names + 1] = account
      end
    end
  end
  table.sort(names)

  local kept, before = {}, redis.call('HGETALL', reserved)
  state.reserved = 0
  for i = 1, #before, 2 do
    local units = math.min(tonumber(before[i + 1]), targets[before[i]] or 0)
    kept[before[i]] = units
    state.reserved = state.reserved + units
  end
  state.emergency = math.min(state.emergency, emergency)
  local free = state.mine - state.reserved - state.emergency
  local for_emergencies = math.max(0, math.min(free, emergency - state.emergency))
  state.emergency = state.emergency + for_emergencies
  free = free - for_emergencies
  while free > 0 do
    local lacking, sum = {}, 0
    for _, account in ipairs(names) do
      if targets[account] > (kept[account] or 0) then
        lacking[#lacking + 1] = account
        sum = sum + weight_of[account]
      end
    end
    if #lacking == 0 then break end
    local round = free
    for _, account in ipairs(lacking) do
      local has = kept[account] or 0
      local part = math.min(free, targets[account] - has, math.max(1, math.floor(round * weight_of[account] / sum)))
      kept[account] = has + part
      state.reserved = state.reserved + part
      free = free - part
    end
  end
  redis.call('DEL', reserved)
  for account, units in pairs(kept) do
    if units > 0 then redis.call('HSET', reserved, account, string.format('%d', units)) end
  end
end

local function own_share(account)
  return tonumber(redis.call('HGET', reserved, account) or 0)
end

-- Accounts of the door: nobody, and the other end of the link.
local NOBODY, BORROWER = '', '>'

local function allowed(state, account)
  if account == BORROWER then return state.mine end
  local units = state.mine - state.reserved - state.emergency + own_share(account)
  if state.emergency > 0 then
    local _, _, emergency = share_of(account)
    if emergency then units = units + state.emergency end
  end
  return units
end

local function is_built()
  return redis.call('HEXISTS', level, 'built') == 1
end

local function is_rebuilding(now)
  local until_ms = tonumber(redis.call('HGET', level, 'rebuilding_until') or 0)
  return until_ms > now and until_ms <= now + REBUILD_PAUSE_MAX_MS
end
