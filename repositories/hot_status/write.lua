-- Write hot statuses, each only over an older one that somebody asked for, and delete the callers' own keys of these jobs.
--
-- KEYS[1]     the bookkeeping hash
-- KEYS[2..]   for each job its status hash, and the caller's own key (or the hash again: then that key stays)
-- ARGV[1..4]  see epoch.lua; here the epoch, seq and ticket that the writer knew before it read what it writes
-- ARGV[5]     milliseconds that a fence lives
-- ARGV[6..]   for each job a JSON list of texts: "set", "advance" or "fence"; milliseconds to live; its order (version,
--             items finished, progress, items in all, errors; "" where the writer does not know); field, value, ...
-- Returns     {epoch, seq, ticket, moved, how many statuses were written}
--
-- Where nothing stands, nobody has asked, and nothing is written. A status is written only onto what has stood there since
-- before its writer asked PostgreSQL (its ticket is not below the number the hash was born with): whatever was committed
-- since then found something standing, and has written over it. So a reader who asked PostgreSQL before a transition
-- cannot put what it read here after it, and a transition of a job that nobody watches leaves nothing.
--
-- A fence is a hash without a status, too: readers ask PostgreSQL, and what is older is not written over it. It stands
-- where the writer knows how new the job is but not all of it, or was not in step.
--
-- Whatever is written moves the ticket on, so that a copy of Redis from before it shows: see epoch.lua.
--#include epoch
local trusted = ARGV[2] == epoch and tonumber(ARGV[3]) == seq
local asked_since = tonumber(ARGV[4])
local written, fenced = 0, 0
local names = {'version', 'finished', 'progress', 'items_total', 'error_count'}

for place = 2, #KEYS, 2 do
    local key, job, order = KEYS[place], cjson.decode(ARGV[5 + place / 2]), {}
    local mode, lifetime = job[1], job[2]
    local found = redis.pcall('HMGET', key, 'epoch', 'status', 'born', unpack(names))
    if found.err then
        aside(key)
        found = {}
    end
    local stands = found[1] == epoch -- what an earlier epoch left is neither believed nor a bound
    local newer, older = false, false
    for index = 1, #names do
        local told = job[2 + index]
        local theirs = stands and tonumber(found[index + 3] or '') or -1
        local ours = tonumber(told) or theirs
        if told ~= '' then
            order[#order + 1] = names[index]
            order[#order + 1] = told
        end
        if not newer and not older then
            newer, older = ours > theirs, ours < theirs
        end
    end
    local born, version = tonumber(found[3] or '0') or 2 ^ 53, tonumber(found[4] or '')
    if mode == 'set' and trusted and stands and born <= asked_since and not older then
        redis.call('DEL', key)
        redis.call('HSET', key, 'epoch', epoch, 'seq', seq, 'born', string.format('%.0f', born), unpack(order))
        redis.call('HSET', key, unpack(job, 8))
        redis.call('PEXPIRE', key, lifetime)
        written = written + 1
    elseif mode == 'advance' and trusted and stands and found[2] and version and job[3] - version <= 1 then
        -- Of the version before, or of the same: what further versions changed in between would be missing.
        if not older then
            redis.call('HSET', key, unpack(order))
            if #job > 7 then
                redis.call('HSET', key, unpack(job, 8))
            end
            redis.call('PEXPIRE', key, lifetime)
            written = written + 1
        end
    elseif stands and newer then
        redis.call('DEL', key)
        redis.call('HSET', key, 'epoch', epoch, 'born', string.format('%.0f', born), unpack(order))
        redis.call('PEXPIRE', key, ARGV[5])
        fenced = fenced + 1
    end
    if KEYS[place + 1] ~= key then
        redis.call('UNLINK', KEYS[place + 1])
    end
end
if written + fenced > 0 then
    ticket = redis.call('HINCRBY', KEYS[1], 'ticket', 1)
end
return {epoch, tostring(seq), tostring(ticket), broken, written}
