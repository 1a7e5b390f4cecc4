"""What runs inside Redis: each script is one round trip for any number of jobs, and nothing comes in between.

Ids are told as one text of 36 characters each: to send them one by one costs the client more than Redis.
"""

from typing import Final

from repositories.broken_keys import ASIDE

# Puts jobs into the queue KEYS[1], notes its name ARGV[1] in the set KEYS[2], and calls an idle worker to it through
# the list KEYS[3]. The jobs come in groups of four arguments: what their message is before the id and after it, how far
# from now they stand in milliseconds, and their ids. ARGV[2] is how the names of messages begin. What an earlier run of
# the same ids left, under names that begin as the other KEYS, is cleared. The time is this server's: places are
# compared with each other, and two clients' clocks may differ.
HAND_OVER: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local messages, places, left = {}, {}, {}
for at = 3, #ARGV, 4 do
    local before, after, score, ids = ARGV[at], ARGV[at + 1], string.format('%.0f', now + ARGV[at + 2]), ARGV[at + 3]
    for from = 1, #ids, 36 do
        local id = string.sub(ids, from, from + 35)
        messages[#messages + 1] = ARGV[2] .. id
        messages[#messages + 1] = before .. id .. after
        places[#places + 1] = score
        places[#places + 1] = id
        for prefix = 4, #KEYS do left[#left + 1] = KEYS[prefix] .. id end
    end
end
if #left > 0 then redis.call('UNLINK', unpack(left)) end
redis.call('MSET', unpack(messages))
redis.call('ZADD', KEYS[1], unpack(places))
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('LPUSH', KEYS[3], '1')
redis.call('LTRIM', KEYS[3], 0, 0)
"""

# Takes up to ARGV[1] ids from the queues in KEYS, in their order, and marks each as ARQ does. All that stands in a
# queue is due, whatever a clock says: what is for later stands on the record alone. An id that bears a mark is another
# worker's. One that is no UUID is no job of ours and moves to the side queue. If there may be more, one token in the
# wake list calls the next idle worker. A key that holds something else costs the other queues nothing: its error is the
# answer only if there is none other.
TAKE: Final = """
local wanted, taken, failed = tonumber(ARGV[1]), {}, nil
for _, queue in ipairs(KEYS) do
    local skipped, page = 0, 0
    while #taken < wanted and page < 20 do
        page = page + 1
        local size = math.max(wanted - #taken, 200)
        local ids = redis.pcall('ZRANGE', queue, skipped, skipped + size - 1)
        if ids.err then
            failed = ids
            break
        end
        if #ids == 0 then break end
        local gone = {}
        for _, id in ipairs(ids) do
            if #taken >= wanted then break end
            if #id ~= 36 or not string.match(id, '^%x+%-%x+%-%x+%-%x+%-%x+$') then
                local moved = redis.pcall('ZADD', ARGV[3], redis.call('ZSCORE', queue, id), id)
                if type(moved) == 'number' then gone[#gone + 1] = id else skipped = skipped + 1 end
            elseif redis.call('SET', ARGV[4] .. id, '1', 'NX', 'PX', ARGV[2]) then
                taken[#taken + 1] = id
                gone[#gone + 1] = id
            else
                skipped = skipped + 1
            end
        end
        if #gone > 0 then redis.call('ZREM', queue, unpack(gone)) end
    end
    if #taken >= wanted then
        if redis.call('ZCARD', queue) > skipped then
            redis.pcall('LPUSH', ARGV[5] .. queue, '1')
            redis.pcall('LTRIM', ARGV[5] .. queue, 0, 0)
        end
        break
    end
end
if failed and #taken == 0 then return failed end
return taken
"""

# Drops every key that ARQ may keep of some jobs besides their places in queues and their results; the names begin as
# KEYS do.
FORGET: Final = """
local names = {}
for at = 1, #ARGV[1], 36 do
    local id = string.sub(ARGV[1], at, at + 35)
    for _, begin in ipairs(KEYS) do names[#names + 1] = begin .. id end
end
return redis.call('UNLINK', unpack(names))
"""

# Looks for each of the jobs in ARGV at its place in the queue, its body and its mark (their names begin as ARGV[1] and
# ARGV[2]). Returns the numbers of those that no worker will take, of those that stand in the queue and are marked, and
# what was moved aside: a body or a mark that is no text is none.
STRANDED: Final = (
    ASIDE
    + """
local function stands_at(key)
    local kind = redis.call('TYPE', key).ok
    if kind ~= 'none' and kind ~= 'string' then aside(key) end
    return kind == 'string'
end
local missing, marked = {}, {}
for number = 3, #ARGV do
    local id = ARGV[number]
    local stands = redis.call('ZSCORE', KEYS[1], id)
    local mark = stands_at(ARGV[2] .. id)
    if (not stands and not mark) or (stands and not stands_at(ARGV[1] .. id)) then
        missing[#missing + 1] = number - 3
    elseif stands and mark then
        marked[#marked + 1] = number - 3
    end
end
return {missing, marked, broken}
"""
)
